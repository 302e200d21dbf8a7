"""Studies, results, names and files as tables in the terminal."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from inspect import getdoc
from pathlib import Path
from typing import Any

import safetensors
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
from prunus.sparse_training import METHODS as SPARSE_TRAINING
from prunus.studies.cells import Cell
from prunus.studies.duration import duration
from prunus.studies.estimate import Estimate
from prunus.studies.kinds import STUDIES
from prunus.studies.report.curves import networks
from prunus.studies.report.tables import rows
from prunus.studies.report.view import Axis, Metric, Point
from prunus.studies.report.views import view_of
from prunus.studies.results import Results
from prunus.studies.runner import Plan
from prunus.supermasks import METHODS
from prunus.supermasks.contents import FORMAT as SUPERMASK
from prunus.supermasks.contents import Artefact
from prunus.supermasks.weights import WEIGHTS
from prunus.tickets import MASK_CRITERIA, ONE_ACTIONS, ZERO_ACTIONS, Ticket


class _Presets(Mapping[str, str]):
    """What there is to say about each preset of each study; looked up only when it is asked for."""

    def __getitem__(self, name: str) -> str:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, str]:
        return {f"{study} (preset {name})": about for study, some in STUDIES.items() for name, about in some.items()}


#: What can be listed.
CATALOGUE: Mapping[str, Mapping[str, Any]] = {
    "studies": _Presets(),
    "models": MODELS,
    "data": DATASETS,
    "criteria": CRITERIA,
    "supermasks": METHODS,
    "sparse-training": SPARSE_TRAINING,
    "weights": WEIGHTS,
    "mask-criteria": MASK_CRITERIA,
    "one-actions": ONE_ACTIONS,
    "zero-actions": ZERO_ACTIONS,
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
    train = (
        f"{left.cells} cells to train, {left.iterations:,} iterations, about {duration(left.seconds)} on this machine"
    )
    compute = f"{left.computing} cells to compute"
    parts = [train] * bool(left.cells) + [compute] * bool(left.computing)
    trains = any(cell.trains for cell in plan.cells)
    print("; ".join(parts) or f"nothing is left to {'train' if trains else 'compute'}")


def print_results(results: Results) -> None:
    """Print the mean over trials, and the range, for each network, arm and place."""
    print(f"{results.title or results.study}: {len(results.cells)} of {results.planned} cells")
    view = view_of(results)
    for network in networks(results):
        for axis, metrics in view.tables:
            if found := rows(results, network, axis):
                arms = list(view.words)
                found.sort(key=lambda row: arms.index(row[0]))  # each arm's rows stay in the order of the axis
                _print(_table_of(f"{network}: mean (least–most) of n trials", axis, metrics, found))
                print()


def _table_of(
    title: str, axis: Axis, metrics: Sequence[Metric], found: Sequence[tuple[str, list[Point | None]]]
) -> RichTable:
    # without lines and spaces that it can do without: on 80 columns each row stays one line
    table = RichTable("arm", title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
    if axis.each:
        table.add_column(axis.each)
    for heading in (axis.short or axis.label, "n", *(metric.short or metric.heading for metric in metrics)):
        table.add_column(heading, justify="right")
    before = found[0][0]
    for arm, points in found:
        if arm != before:
            table.add_section()
        before = arm
        first = next(p for p in points if p)
        values = [m.printed(p) if p else {"mean": "–", "range": ""} for m, p in zip(metrics, points, strict=True)]
        shown = [f"{v['mean']} ({v['range']})" if v["range"] else v["mean"] for v in values]
        each = [first.name] if axis.each else []
        table.add_row(arm, *each, axis.shown(first.x), str(first.n), *shown)
    return table


def print_file(path: Path) -> None:
    """Print what a ticket or a supermask file holds, after checking that it is whole.

    Raises:
        Invalid: if it is neither, cut short or altered.
    """
    if _format(path) == SUPERMASK:
        print_supermask(path)
    else:
        print_ticket(path)


def _format(path: Path) -> str | None:
    """What a file says that it is; None where it says nothing, and reading it will say why."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format")
    except (safetensors.SafetensorError, ValueError, OSError, MemoryError):
        return None


def print_supermask(path: Path) -> None:
    """Print what a supermask file holds: the masks and what they cost, layer by layer, and the whole.

    The bound is n · H(kept / n) bits, with H the entropy of a coin that falls so.
    """
    artefact = Artefact.read(path)
    table = RichTable(box=SIMPLE_HEAD, padding=0, show_edge=False, show_footer=True)
    table.add_column("weight", "all", overflow="fold")
    totals = (artefact.kept, artefact.coded, artefact.bound, artefact.count)
    for name, total in zip(("shape", "kept", "bytes", "bound", "bits a weight"), ["", *_costs(*totals)], strict=True):
        table.add_column(name, total, justify="right")
    for layer in artefact.layers:
        shape = "×".join(map(str, layer.shape))
        table.add_row(layer.name, shape, *_costs(layer.kept, layer.coded, layer.bound, layer.count))
    _print(table)
    ratio = f"{artefact.dense / artefact.size:,.1f} times smaller"
    print(f"{artefact.size:,} bytes, {ratio} than a dense checkpoint in float32 ({artefact.dense:,} bytes)")
    print(yaml.safe_dump(_about(artefact), sort_keys=False, allow_unicode=True), end="")


def _costs(kept: int, coded: int, bound: float, count: int) -> list[str]:
    return [f"{kept:,}", f"{coded:,}", f"{bound:,.0f}", f"{8 * coded / max(1, count):.4f}"]


def _about(artefact: Artefact) -> dict[str, Any]:
    """What there is to say about a supermask as a whole."""
    reference, origin = artefact.reference, artefact.origin
    shape = "×".join(map(str, reference.input_shape)) if reference else ""
    return {
        "method": {artefact.method["name"]: {k: v for k, v in artefact.method["options"].items() if v is not None}},
        "density": float(f"{artefact.kept / max(1, artefact.count):.6g}"),
        "network": {**asdict(reference), "input_shape": shape} if reference else "another; load needs one like it",
        "weights": asdict(origin) if origin else "those of a backbone, which load needs",
        "checksum": artefact.checksum,
        "tensors beside the masks": len(artefact.state),
        "values in these": sum(tensor.numel() for tensor in artefact.state.values()),
    }


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
