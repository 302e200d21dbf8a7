"""Studies, results, names and ticket files as tables in the terminal."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from inspect import getdoc
from pathlib import Path
from typing import Any

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from prunus.core.allocation import ALLOCATIONS
from prunus.core.errors import Invalid
from prunus.core.schedules import SCHEDULES
from prunus.data import DATASETS
from prunus.models import MODELS
from prunus.pruning.criteria import CRITERIA
from prunus.studies.cells import Cell
from prunus.studies.duration import duration
from prunus.studies.estimate import Estimate
from prunus.studies.report.curves import METRICS, curves, networks, percent
from prunus.studies.resolve import STUDIES
from prunus.studies.results import Results
from prunus.studies.runner import Plan
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
    """Print the names of each kind that match a glob pattern, with the first line of what they say of themselves.

    Raises:
        Invalid: if no name matches.
    """
    matching = {kind: [name for name in CATALOGUE[kind] if fnmatchcase(name, pattern)] for kind in kinds}
    if not any(matching.values()):
        raise Invalid(f"no name of {', '.join(matching)} matches {pattern!r}; allowed: a glob pattern such as 'conv-*'")
    for kind, names in matching.items():
        if names:
            table = RichTable("name", "what it is", title=kind, title_justify="left", box=None, padding=(0, 2))
            for name in names:
                table.add_row(name, _first_line(CATALOGUE[kind][name]))
            _print(table)
            print()


def print_plan(plan: Plan, left: Estimate) -> None:
    """Print the cells of a study by network and arm, and what is left to do."""
    table = RichTable("network", "arm", "rounds", "trials", "cells", "finished", title=plan.study.name)
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in plan.cells:
        groups.setdefault((cell.network, cell.arm), []).append(cell)
    for (network, arm), cells in groups.items():
        first, last = min(c.round for c in cells), max(c.round for c in cells)
        rounds = f"{first}–{last}" if first < last else str(first)
        trials = len({cell.trial for cell in cells})
        finished = sum(plan.store.has(cell.key) for cell in cells)
        table.add_row(network, arm, rounds, str(trials), str(len(cells)), str(finished))
    _print(table)
    work = (
        f"{left.cells} cells to train, {left.iterations:,} iterations, about {duration(left.seconds)} on this machine"
    )
    print(work if left.cells else "nothing is left to train")


def print_results(results: Results) -> None:
    """Print the mean over trials, and the range, for each network, arm and density."""
    print(f"{results.title or results.study}: {len(results.cells)} of {results.planned} cells")
    for network in networks(results):
        title = f"{network}: mean (least–most) of n trials"
        # without lines and spaces that it can do without: on 80 columns each row stays one line
        table = RichTable("arm", title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
        for heading in ("kept, %", "n", "early stop, iteration", "test at stop, %", "test at end, %"):
            table.add_column(heading, justify="right")
        by_metric = [curves(results, network, metric) for metric in METRICS]
        for same_arm in zip(*by_metric, strict=True):
            for points in zip(*(curve.points for curve in same_arm), strict=True):
                values = [metric.printed(point) for metric, point in zip(METRICS, points, strict=True)]
                shown = [f"{v['mean']} ({v['range']})" if v["range"] else v["mean"] for v in values]
                table.add_row(same_arm[0].arm, percent(points[0].density), str(points[0].n), *shown)
            table.add_section()
        _print(table)
        print()


def print_ticket(path: Path) -> None:
    """Print what a ticket file holds."""
    ticket = Ticket.load(path)
    console = Console()
    console.print(ticket.masks.summary())
    size = path.stat().st_size
    weights = sum(tensor.numel() for tensor in ticket.weights.values())
    console.print(f"round {ticket.round}, {len(ticket.weights)} tensors with {weights:,} values, {size:,} bytes")
    print(yaml.safe_dump(dict(ticket.provenance), sort_keys=False, allow_unicode=True), end="")


def _print(table: RichTable) -> None:
    # names are the user's own: brackets in them are no markup
    Console(markup=False).print(table)


def _first_line(row: Any) -> str:
    about = row if isinstance(row, str) else getattr(row, "note", None) or getdoc(row) or ""
    return about.split("\n\n")[0].replace("\n", " ")
