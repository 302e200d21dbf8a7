"""The tables of the page, as plain rows: numbers, layers, environment, cells."""

from collections import defaultdict
from statistics import fmean

from prunus.studies.duration import duration
from prunus.studies.report.curves import curves, networks
from prunus.studies.report.view import Axis, Point
from prunus.studies.report.views import view_of
from prunus.studies.report.words import called, percent
from prunus.studies.results import CellResult, Results


def rows(results: Results, network: str, axis: Axis) -> list[tuple[str, list[Point | None]]]:
    """The arms at each place of an axis, in its order: the point of each metric that has this axis."""
    view = view_of(results)
    measured = [
        {c.arm: {p.place: p for p in c.points} for c in curves(view, results, network, m)} for m in view.along(axis)
    ]
    found = {(p.place, arm): p for by_arm in measured for arm, places in by_arm.items() for p in places.values()}
    arms, sign = list(view.words), -1 if axis.descending else 1
    order = sorted(found, key=lambda at: (sign * found[at].x, at[0], arms.index(at[1])))
    return [(arm, [by_arm.get(arm, {}).get(place) for by_arm in measured]) for place, arm in order]


def numbers(results: Results, network: str, axis: Axis | None = None) -> list[dict]:
    """One row for each place and arm, in the order of the axis: where it is and, for each metric, mean, range, n.

    Args:
        results: the finished cells.
        network: of which network.
        axis: of the metrics that have this axis; default the view's.
    """
    view = view_of(results)
    axis = axis or view.axis
    made: list[dict] = []
    last = None
    for arm, points in rows(results, network, axis):
        first = next(p for p in points if p)
        name = view.called(arm, first.round)
        made.append(
            {
                "arm": name,
                "words": view.words[name],
                "round": first.round,
                "x": axis.shown(first.x),
                "each": first.name,
                "n": max(p.n for p in points if p),
                "cells": [m.printed(p) if p else None for m, p in zip(view.along(axis), points, strict=True)],
                "new_place": last != first.place,
            }
        )
        last = first.place
    return made


def layers(results: Results, network: str, arm: str | None = None) -> dict | None:
    """The density of each layer at each place of an arm, a mean over trials; None where there is none.

    Args:
        results: the finished cells.
        network: of which network.
        arm: which arm; default the first of the view's table of layers.
    """
    view = view_of(results)
    assert view.layers
    arm = arm or view.layers.arms[0]
    rounds: dict[int, list[CellResult]] = defaultdict(list)
    for cell in results.cells:
        if cell.network == network and cell.arm == arm and cell.layers:
            rounds[cell.round].append(cell)
    if not rounds:
        return None
    first = next(iter(rounds.values()))[0]
    made = []
    for round_, cells in sorted(rounds.items()):
        by_layer = zip(*(cell.layers for cell in cells), strict=True)
        parts = [100 * fmean(layer.density for layer in trials) for trials in by_layer]
        on_axis = None if view.layers.by_round or view.axis.x is None else fmean(view.axis.x(c) for c in cells)
        made.append(
            {
                "place": str(round_) if on_axis is None else view.axis.shown(on_axis),
                "density": percent(100 * fmean(c.density for c in cells)),
                "kept": f"{fmean(c.kept for c in cells):,.0f}",
                "layers": [{"density": percent(p), "part": p} for p in parts],
            }
        )
    heads = [{"name": layer.name, "shape": " × ".join(map(str, layer.shape))} for layer in first.layers]
    by_round = view.layers.by_round or view.axis.x is None
    place = "Round" if by_round else view.axis.column or view.axis.label
    words = view.words[arm] if len(view.layers.arms) > 1 else ""
    return {"heads": heads, "rows": made, "total": f"{first.total:,}", "place": place, "words": words}


def facts(results: Results) -> list[tuple[str, str]]:
    """What the numbers depend on and what they cost: the environment of all cells, trials, times."""
    values: dict[str, list[str]] = {}
    for cell in results.cells:
        for name, value in cell.environment.items():
            known = values.setdefault(name, [])
            if str(value) not in known:
                known.append(str(value))
    seconds = [cell.seconds for cell in results.cells]
    rows = [(name.replace("_", " "), _few(known)) for name, known in values.items()]
    return [
        *rows,
        *(("layers computed", text) for text in products(results)),
        ("cells", f"{len(results.cells)} of {results.planned}"),
        ("time, all cells", duration(sum(seconds))),
        ("time, a cell", f"{duration(fmean(seconds))} ({duration(min(seconds))} to {duration(max(seconds))})"),
    ]


def products(results: Results) -> list[str]:
    """For each network, which of its layers were computed as sparse ones, and from which density on."""
    said = []
    for network in networks(results):
        sparse: dict[str, list[float]] = {}
        for cell in (cell for cell in results.cells if cell.network == network):
            density = {layer.name.removesuffix(".weight"): layer.density for layer in cell.layers}
            for name, how in cell.products.items():
                sparse.setdefault(name, []).extend([density[name]] if how == "sparse" else [])
        if any(sparse.values()):
            parts = [f"{n} sparse up to {percent(100 * max(d))} %" if d else f"{n} dense" for n, d in sparse.items()]
            said.append(f"{called(network)}: " + ", ".join(parts))
    return said


def cells(results: Results) -> list[dict]:
    """One row for each finished cell, with the key under which its records lie."""
    view = view_of(results)
    return [
        {
            "network": called(c.network),
            "arm": view.words[view.called(c.arm, c.round)],
            "round": c.round,
            "trial": c.trial,
            "time": duration(c.seconds),
            "key": c.key,
        }
        for c in results.cells
    ]


def all_networks(results: Results) -> list[dict]:
    """The tables of each network."""
    view = view_of(results)
    arms = view.layers.arms if view.layers else ()
    return [
        {
            "name": called(network),
            "tables": [
                {"axis": axis, "metrics": metrics, "rows": numbers(results, network, axis)}
                for axis, metrics in view.tables
            ],
            "layers": [table for arm in arms if (table := layers(results, network, arm))],
        }
        for network in networks(results)
    ]


def _few(values: list[str], most: int = 12) -> str:
    return ", ".join(values[:most]) + (f", … ({len(values)} in all)" if len(values) > most else "")
