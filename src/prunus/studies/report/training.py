"""The training curves, thinned to what a page can hold: the data of its explorer."""

from collections.abc import Callable, Sequence
from math import isfinite, log

from prunus.studies.report.curves import networks
from prunus.studies.report.view import View
from prunus.studies.report.views import view_of
from prunus.studies.report.words import called
from prunus.studies.results import CellResult, Evaluation, Results

# Name in the page's data, name in words, how to read it; accuracies in percent.
MEASURES: tuple[tuple[str, str, Callable[[Evaluation], float | None]], ...] = (
    ("va", "Validation accuracy (%)", lambda e: 100 * e.validation_accuracy),
    ("vl", "Validation loss", lambda e: e.validation_loss),
    ("ta", "Training accuracy (%)", lambda e: 100 * e.train_accuracy),
    ("tl", "Training loss", lambda e: e.train_loss),
    ("ea", "Test accuracy (%)", lambda e: None if e.test_accuracy is None else 100 * e.test_accuracy),
)
ROOM = 80_000  # numbers in all: about 500 kB of the page
MOST = 160  # evaluations of a curve: more than a chart of this size can show


def training(results: Results) -> dict:
    """The curves of all cells, by network; cells with the same evaluations share their list of iterations."""
    view = view_of(results)
    most = max(16, min(MOST, ROOM // (len(MEASURES) * len(results.cells))))
    grids: list[list[int]] = []
    by_network = []
    for network in networks(results):
        cells = [c for c in results.cells if c.network == network and c.evaluations]
        if not cells:
            continue
        rounds = _rounds(view, cells)
        by_network.append(
            {
                "name": called(network),
                "rounds": rounds,
                "first": _first(view, cells, [r["round"] for r in rounds]),
                "cells": [_cell(view, cell, grids, most) for cell in cells],
            }
        )
    measures = [{"key": key, "words": words} for key, words, _ in MEASURES]
    return {"measures": measures, "grids": grids, "networks": by_network}


def _rounds(view: View, cells: Sequence[CellResult]) -> list[dict]:
    """The places of the cells in the order of the axis; one that has a name of its own says it."""
    places = {c.round: _place(view, c) for c in cells}
    names: dict[int, set[str]] = {}
    for c in cells:
        name = view.called(c.arm, c.round)
        names.setdefault(c.round, set()).add(name if name in view.lines else "")
    made = []
    for round_ in sorted(places, key=places.__getitem__, reverse=view.axis.descending):
        (name, *others) = names[round_]
        words = view.axis.with_unit(places[round_]) if view.axis.x else str(round_)
        made.append({"round": round_, "words": f"{words} ({name})" if name and not others else words})
    return made


def _first(view: View, cells: Sequence[CellResult], rounds: Sequence[int]) -> int:
    """The place to begin with: the nearest to the axis's typical one, else that in the middle."""
    typical = view.axis.typical
    if typical is None:
        return rounds[len(rounds) // 2]
    distance = (lambda x: abs(log(x / typical)) if x > 0 else 1e9) if view.axis.log else (lambda x: abs(x - typical))
    away = {c.round: distance(_place(view, c)) for c in cells}
    return min(rounds, key=away.__getitem__)


def _place(view: View, cell: CellResult) -> float:
    return view.axis.x(cell) if view.axis.x else cell.round


def thinned(evaluations: Sequence[Evaluation], most: int) -> list[Evaluation]:
    """At most `most` of the evaluations, evenly spread, the first and the last among them."""
    if len(evaluations) <= most:
        return list(evaluations)
    last = len(evaluations) - 1
    return [evaluations[round(i * last / (most - 1))] for i in range(most)]


def _cell(view: View, cell: CellResult, grids: list[list[int]], most: int) -> dict:
    kept = thinned(cell.evaluations, most)
    grid = [e.iteration for e in kept]
    if grid not in grids:
        grids.append(grid)
    curves = {key: [_short(value(e)) for e in kept] for key, _, value in MEASURES}
    name = view.called(cell.arm, cell.round)
    return {
        "arm": cell.arm,
        **({"base": name} if name in view.lines else {}),
        "round": cell.round,
        "stop": cell.early_stop.iteration if cell.early_stop else 0,
        "grid": grids.index(grid),
        **{key: values for key, values in curves.items() if any(v is not None for v in values)},
    }


def _short(number: float | None) -> float | None:
    """Four significant digits; None for what JSON has no word for."""
    return float(f"{number:.4g}") if number is not None and isfinite(number) else None
