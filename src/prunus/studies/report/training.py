"""The training curves, thinned to what a page can hold: the data of its explorer."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import isfinite

from prunus.studies.report.curves import called, networks, percent
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
    most = max(16, min(MOST, ROOM // (len(MEASURES) * len(results.cells))))
    grids: list[list[int]] = []
    by_network = []
    for network in networks(results):
        cells = [c for c in results.cells if c.network == network and c.evaluations]
        density = defaultdict(float, {c.round: 100 * c.density for c in cells})
        rounds = sorted(density, key=lambda r: -density[r])
        by_network.append(
            {
                "name": called(network),
                "rounds": [{"round": r, "density": percent(density[r]), "part": density[r]} for r in rounds],
                "cells": [_cell(cell, grids, most) for cell in cells],
            }
        )
    measures = [{"key": key, "words": words} for key, words, _ in MEASURES]
    return {"measures": measures, "grids": grids, "networks": by_network}


def thinned(evaluations: Sequence[Evaluation], most: int) -> list[Evaluation]:
    """At most `most` of the evaluations, evenly spread, the first and the last among them."""
    if len(evaluations) <= most:
        return list(evaluations)
    last = len(evaluations) - 1
    return [evaluations[round(i * last / (most - 1))] for i in range(most)]


def _cell(cell: CellResult, grids: list[list[int]], most: int) -> dict:
    kept = thinned(cell.evaluations, most)
    grid = [e.iteration for e in kept]
    if grid not in grids:
        grids.append(grid)
    curves = {key: [_short(value(e)) for e in kept] for key, _, value in MEASURES}
    return {
        "arm": cell.arm,
        "round": cell.round,
        "stop": cell.early_stop.iteration,
        "grid": grids.index(grid),
        **{key: values for key, values in curves.items() if any(v is not None for v in values)},
    }


def _short(number: float | None) -> float | None:
    """Four significant digits; None for what JSON has no word for."""
    return float(f"{number:.4g}") if number is not None and isfinite(number) else None
