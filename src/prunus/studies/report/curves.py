"""The numbers of the figure: for each network, arm and place, the mean and the range over trials."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import isfinite
from statistics import fmean

from prunus.studies.report.view import Axis, Curve, Line, Metric, Point, View
from prunus.studies.results import CellResult, Results

#: A value with its place and its name.
Sample = tuple[float, float, str]


def networks(results: Results) -> list[str]:
    """The networks of a study, in the order they come."""
    return list(dict.fromkeys(cell.network for cell in results.cells))


def curves(view: View, results: Results, network: str, metric: Metric) -> list[Curve]:
    """One curve for each arm of which something was measured, in the order of the view's lines and arms."""
    axis = view.axis_of(metric)
    found: dict[str, dict[tuple[int, int], list[Sample]]] = {arm: defaultdict(list) for arm in view.words}
    for cell in results.cells:
        if cell.network == network:
            for index, sample in enumerate(_samples(cell, metric, axis)):
                found[cell.arm][cell.round, index].append(sample)
    return [Curve(arm, _points(places, axis)) for arm, places in found.items() if places]


def panels(view: View, results: Results) -> list[Metric]:
    """The metrics that have a panel."""
    measured = [m for m in view.metrics if any(curves(view, results, n, m) for n in networks(results))]
    return [metric for metric in view.metrics if metric in measured or not metric.optional]


def lines(results: Results, network: str, metric: Metric, measured: Sequence[Curve]) -> list[Line]:
    """The lines that a panel with these curves has."""
    return list(metric.lines([cell for cell in results.cells if cell.network == network], measured))


def all_lines(view: View, results: Results) -> Iterable[str]:
    """The names of the lines that the figure has."""
    for network in networks(results):
        for metric in view.metrics:
            for line in lines(results, network, metric, curves(view, results, network, metric)):
                yield line.name


def _samples(cell: CellResult, metric: Metric, axis: Axis) -> list[Sample]:
    values = metric.values(cell)
    if values is None:
        return []
    if isinstance(values, float | int):
        assert axis.x is not None, f"{metric.key} has one value for each cell, and its axis has no places of cells"
        values = [(axis.x(cell), values)]
    samples = [(value[0], value[1], value[2] if len(value) > 2 else "") for value in values]
    return [sample for sample in samples if isfinite(sample[0]) and isfinite(sample[1])]


def _points(places: dict[tuple[int, int], list[Sample]], axis: Axis) -> tuple[Point, ...]:
    points = (_point(*place, samples) for place, samples in places.items())
    return tuple(sorted(points, key=lambda p: (-p.x if axis.descending else p.x, p.place)))


def _point(round_: int, index: int, samples: list[Sample]) -> Point:
    values = [value for _, value, _ in samples]
    low, high = min(values), max(values)
    mean = min(max(fmean(values), low), high)  # a mean of equal numbers may be off by a rounding
    return Point(round_, fmean(x for x, _, _ in samples), mean, low, high, len(values), index, samples[0][2])
