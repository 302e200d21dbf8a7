"""Studies, results, names and ticket files as tables in the terminal."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from fnmatch import fnmatchcase
from inspect import getdoc
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table as RichTable

from prunus.core.allocation import ALLOCATIONS
from prunus.core.schedules import SCHEDULES
from prunus.data import DATASETS
from prunus.models import MODELS
from prunus.pruning.criteria import CRITERIA
from prunus.studies.report.curves import METRICS, curves, networks, percent
from prunus.studies.resolve import STUDIES
from prunus.studies.results import Results
from prunus.studies.runner import Estimate, Plan
from prunus.tickets import Ticket

#: What can be listed.
CATALOGUE: Mapping[str, Mapping[str, Any]] = {
    "studies": {
        f"{study} (preset {preset})": about for study, presets in STUDIES.items() for preset, about in presets.items()
    },
    "models": MODELS,
    "data": DATASETS,
    "criteria": CRITERIA,
    "scopes": ALLOCATIONS,
    "schedules": SCHEDULES,
}


def print_catalogue(kinds: Iterable[str], pattern: str) -> None:
    """Print the names of each kind that match a glob pattern, with the first line of what they say of themselves."""
    for kind in kinds:
        table = RichTable("name", "what it is", title=kind, title_justify="left", box=None, padding=(0, 2))
        for name, row in CATALOGUE[kind].items():
            if fnmatchcase(name, pattern):
                table.add_row(name, _first_line(row))
        Console().print(table, "")


def print_plan(plan: Plan, left: Estimate) -> None:
    """Print the cells of a study by network and arm, and what is left to do."""
    table = RichTable("network", "arm", "rounds", "trials", "cells", "finished", title=plan.study.name)
    groups: dict[tuple[str, str], list] = {}
    for cell in plan.cells:
        groups.setdefault((cell.network, cell.arm), []).append(cell)
    for (network, arm), cells in groups.items():
        rounds = [cell.round for cell in cells]
        done = sum(plan.store.has(cell.key) for cell in cells)
        trials = len({cell.trial for cell in cells})
        table.add_row(network, arm, f"{min(rounds)}–{max(rounds)}", str(trials), str(len(cells)), str(done))
    Console().print(table)
    time = timedelta(seconds=round(left.seconds))
    print(f"{left.cells} cells to train, {left.iterations:,} iterations, about {time} (h:mm:ss) on this machine")


def print_results(results: Results) -> None:
    """Print the mean over trials, and the range, for each network, arm and density."""
    print(f"{results.title or results.study}: {len(results.cells)} of {results.planned} cells")
    for network in networks(results):
        table = RichTable("arm", "weights", "trials", title=network)
        for heading in ("early stop, iteration", "test at early stop, %", "test at the end, %"):
            table.add_column(heading, justify="right")
        by_metric = [curves(results, network, metric) for metric in METRICS]
        for same_arm in zip(*by_metric, strict=True):
            for points in zip(*(curve.points for curve in same_arm), strict=True):
                values = [metric.printed(point) for metric, point in zip(METRICS, points, strict=True)]
                shown = [f"{v['mean']} ({v['range']})" if v["range"] else v["mean"] for v in values]
                table.add_row(same_arm[0].arm, f"{percent(points[0].density)} %", str(points[0].n), *shown)
            table.add_section()
        Console().print(table)


def print_ticket(path: Path) -> None:
    """Print what a ticket file holds."""
    ticket = Ticket.load(path)
    console = Console()
    console.print(ticket.masks.summary())
    size = path.stat().st_size
    weights = sum(tensor.numel() for tensor in ticket.weights.values())
    console.print(f"round {ticket.round}, {len(ticket.weights)} tensors with {weights:,} values, {size:,} bytes")
    print(yaml.safe_dump(dict(ticket.provenance), sort_keys=False, allow_unicode=True), end="")


def _first_line(row: Any) -> str:
    about = row if isinstance(row, str) else getattr(row, "note", None) or getdoc(row) or ""
    return about.split("\n\n")[0].replace("\n", " ")
