"""The numbers of the figure: for each network, arm and round, the mean and the range over trials."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean

from prunus.studies.report.style import ARMS
from prunus.studies.results import CellResult, Outcome, Results


@dataclass(frozen=True)
class Point:
    """One round of a curve.

    Attributes:
        round: how many times the network was pruned.
        density: weights remaining, in percent (mean over trials).
        mean: the mean over trials.
        low: the least over trials.
        high: the greatest over trials.
        n: over how many trials.
    """

    round: int
    density: float
    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Metric:
    """One panel of the figure.

    Attributes:
        key: its name in the CSV file.
        title: its name in words.
        unit: "%", or nothing.
        value: reads it from a cell; None where it was not measured.
    """

    key: str
    title: str
    unit: str
    value: Callable[[CellResult], float | None]

    def shown(self, number: float) -> str:
        """The number as the report prints it, without its unit."""
        return f"{number:.2f}" if self.unit else f"{number:,.0f}"

    def printed(self, point: Point) -> dict[str, str]:
        """The mean and, of more than one trial, the range."""
        spread = f"{self.shown(point.low)}–{self.shown(point.high)}" if point.n > 1 else ""
        return {"mean": self.shown(point.mean), "range": spread}


def _test_accuracy(outcome: Outcome) -> float | None:
    return None if outcome.test_accuracy is None else 100 * outcome.test_accuracy


STOP = Metric("early_stop_iteration", "Early-stopping iteration", "", lambda c: c.early_stop.iteration)
AT_STOP = Metric(
    "test_accuracy_at_early_stop", "Test accuracy at early stop", "%", lambda c: _test_accuracy(c.early_stop)
)
AT_END = Metric("test_accuracy_at_end", "Test accuracy at end of training", "%", lambda c: _test_accuracy(c.final))
METRICS = (STOP, AT_STOP, AT_END)


@dataclass(frozen=True)
class Curve:
    """One arm in one panel; its points go from dense to sparse."""

    arm: str
    points: tuple[Point, ...]

    def at(self, pruned: int) -> Point | None:
        """The point of the network that was pruned so many times, if it was measured."""
        return next((p for p in self.points if p.round == pruned), None)


def networks(results: Results) -> list[str]:
    """The networks of a study, in the order they come."""
    return list(dict.fromkeys(cell.network for cell in results.cells))


def curves(results: Results, network: str, metric: Metric) -> list[Curve]:
    """One curve for each arm of which something was measured, in the order of `ARMS`."""
    cells: dict[str, dict[int, list[CellResult]]] = {arm: defaultdict(list) for arm in ARMS}
    for cell in results.cells:
        if cell.network == network and metric.value(cell) is not None:
            cells[cell.arm][cell.round].append(cell)
    return [Curve(arm, _points(rounds, metric)) for arm, rounds in cells.items() if rounds]


def dense(measured: Iterable[Curve]) -> Point | None:
    """The dense network: round 0 of the arm "ticket"."""
    return next((curve.at(0) for curve in measured if curve.arm == "ticket"), None)


def trials(points: Iterable[Point]) -> str:
    """How many trials the points are the mean of, in words: "5 trials", "2 to 5 trials"."""
    counts = {p.n for p in points}
    least, most = min(counts), max(counts)
    return f"{least} to {most} trials" if least < most else f"{most} trial{'s' if most > 1 else ''}"


def percent(density: float) -> str:
    """A density in percent as the papers print it: 100, 51.2, 7.0, 0.85."""
    if density >= 99.95:
        return "100"
    return f"{density:.1f}" if density >= 1 else f"{density:.2g}"


def called(network: str) -> str:
    """A network's name as the papers spell it: LeNet-300-100, Conv-6."""
    for name in ("LeNet", "Conv"):
        if network.startswith(name.lower() + "-"):
            return name + network[len(name) :]
    return network


def _points(rounds: dict[int, list[CellResult]], metric: Metric) -> tuple[Point, ...]:
    points = (_point(pruned, cells, metric) for pruned, cells in rounds.items())
    return tuple(sorted(points, key=lambda p: (-p.density, p.round)))


def _point(pruned: int, cells: list[CellResult], metric: Metric) -> Point:
    values = [v for cell in cells if (v := metric.value(cell)) is not None]
    low, high = min(values), max(values)
    mean = min(max(fmean(values), low), high)  # a mean of equal numbers may be off by a rounding
    return Point(pruned, 100 * fmean(c.density for c in cells), mean, low, high, len(values))
