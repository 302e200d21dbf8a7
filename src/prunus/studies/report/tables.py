"""The tables of the page, as plain rows: numbers, layers, environment, cells."""

from collections import defaultdict
from statistics import fmean

from prunus.studies.duration import duration
from prunus.studies.report.curves import METRICS, called, curves, networks, percent
from prunus.studies.report.style import ARMS
from prunus.studies.results import CellResult, Results


def numbers(results: Results, network: str) -> list[dict]:
    """One row for each round and arm, from dense to sparse: its density and, for each metric, mean, range, n."""
    measured = {metric: {c.arm: c for c in curves(results, network, metric)} for metric in METRICS}
    found = {(p.round, arm): p for by_arm in measured.values() for arm, c in by_arm.items() for p in c.points}
    order = sorted(found, key=lambda at: (-found[at].density, at[0], list(ARMS).index(at[1])))
    rows = []
    for pruned, arm in order:
        points = [by_arm[arm].at(pruned) if arm in by_arm else None for by_arm in measured.values()]
        is_dense = (arm, pruned) == ("ticket", 0)
        rows.append(
            {
                "arm": "dense" if is_dense else arm,
                "words": "dense network" if is_dense else ARMS[arm].words,
                "round": pruned,
                "density": percent(found[pruned, arm].density),
                "n": max(p.n for p in points if p),
                "cells": [m.printed(p) if p else None for m, p in zip(METRICS, points, strict=True)],
                "new_round": not rows or rows[-1]["round"] != pruned,
            }
        )
    return rows


def layers(results: Results, network: str) -> dict | None:
    """The density of each layer in each round of the ticket, a mean over trials; None where there is no ticket."""
    rounds: dict[int, list[CellResult]] = defaultdict(list)
    for cell in results.cells:
        if cell.network == network and cell.arm == "ticket":
            rounds[cell.round].append(cell)
    if not rounds:
        return None
    first = next(iter(rounds.values()))[0]
    rows = []
    for pruned, cells in sorted(rounds.items()):
        by_layer = zip(*(cell.layers for cell in cells), strict=True)
        parts = [100 * fmean(layer.density for layer in trials) for trials in by_layer]
        rows.append(
            {
                "round": pruned,
                "density": percent(100 * fmean(c.density for c in cells)),
                "kept": f"{fmean(c.kept for c in cells):,.0f}",
                "layers": [{"density": percent(p), "part": p} for p in parts],
            }
        )
    heads = [{"name": layer.name, "shape": " × ".join(map(str, layer.shape))} for layer in first.layers]
    return {"heads": heads, "rows": rows, "total": f"{first.total:,}"}


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
    return [
        {
            "network": called(c.network),
            "arm": ARMS[c.arm].words if (c.arm, c.round) != ("ticket", 0) else "dense network",
            "round": c.round,
            "trial": c.trial,
            "time": duration(c.seconds),
            "key": c.key,
        }
        for c in results.cells
    ]


def all_networks(results: Results) -> list[dict]:
    """The tables of each network."""
    return [
        {"name": called(network), "numbers": numbers(results, network), "layers": layers(results, network)}
        for network in networks(results)
    ]


def _few(values: list[str], most: int = 12) -> str:
    return ", ".join(values[:most]) + (f", … ({len(values)} in all)" if len(values) > most else "")
