"""`View`: how the results of a kind of study are reported. Each kind gives one; everything here draws from it.

Along the axis lie the places of the study: rounds, compression ratios, sizes of layers. A metric reads one value of a
cell, or several with places of their own; a panel shows its mean and range over trials, an arm beside the others.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from re import compile as pattern

from prunus.core.errors import Invalid
from prunus.studies.report.style import Arm
from prunus.studies.results import CellResult, Results

#: What the names of arms and lines look like.
NAME = pattern(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True)
class Axis:
    """The horizontal axis.

    Attributes:
        key: its name in the CSV file.
        label: what stands below a panel.
        name: its name in a sentence, such as "weights remaining".
        x: where a cell lies on it; None where each metric says that itself.
        shown: a place in words, without unit.
        unit: of places, "%" or nothing.
        said: a place as a tooltip says it; default name, place and unit.
        column: its heading in the page's tables; default the label.
        short: its heading in the terminal; default the label.
        each: what one value is where a cell has several of them, such as "layer"; it heads a column of their names.
        log: whether it is logarithmic.
        descending: whether it runs from the largest to the smallest.
        at_points: whether its labels stand at the places of points, not at round numbers.
        of_curves: whether it holds the places of curves alone, and not those of cells that are a line.
        typical: the place that the explorer of training curves begins with.
        note: a sentence on it, below the figure.
    """

    key: str
    label: str
    name: str
    x: Callable[[CellResult], float] | None = None
    shown: Callable[[float], str] = "{:.4g}".format
    unit: str = ""
    said: Callable[[float], str] | None = None
    column: str = ""
    short: str = ""
    each: str = ""
    log: bool = True
    descending: bool = False
    at_points: bool = False
    of_curves: bool = False
    typical: float | None = None
    note: str = ""

    def with_unit(self, x: float) -> str:
        """A place with its unit."""
        return f"{self.shown(x)} {self.unit}".rstrip()

    def in_words(self, x: float) -> str:
        """A place as a tooltip says it."""
        return self.said(x) if self.said else f"{self.name} {self.with_unit(x)}"


@dataclass(frozen=True)
class Point:
    """The mean over trials of one arm at one place.

    Attributes:
        round: the place of the cells, as they count it.
        x: where it lies on the axis (mean over trials).
        mean: the mean over trials.
        low: the least over trials.
        high: the greatest over trials.
        n: over how many trials.
        index: which of the values of a cell, where it has several.
        name: what the value is of, where a cell has several, such as a layer.
    """

    round: int
    x: float
    mean: float
    low: float
    high: float
    n: int
    index: int = 0
    name: str = ""

    @property
    def place(self) -> tuple[int, int]:
        """What it shares with points of other arms and metrics."""
        return self.round, self.index


@dataclass(frozen=True)
class Curve:
    """One arm in one panel; its points lie in the order of the axis."""

    arm: str
    points: tuple[Point, ...]

    def at(self, round_: int, index: int = 0) -> Point | None:
        """The point of that place, if it was measured."""
        return next((p for p in self.points if p.place == (round_, index)), None)


@dataclass(frozen=True)
class Line:
    """A line to compare with: a level `y`, a place `x`, or a straight line through `points`.

    Attributes:
        name: which of the view's `lines`.
        y: a level, over the whole width.
        x: a place, over the whole height.
        points: (x, y) pairs that are joined.
    """

    name: str
    y: float | None = None
    x: float | None = None
    points: tuple[tuple[float, float], ...] = ()


#: One value of a cell, at its place; or several: (x, y) or (x, y, name). None or nothing is not measured.
Values = float | None | Sequence[tuple[float, float] | tuple[float, float, str]]


def no_lines(_cells: Sequence[CellResult], _curves: Sequence[Curve], /) -> Iterable[Line]:
    """Nothing to compare with."""
    return ()


@dataclass(frozen=True)
class Metric:
    """One panel of the figure, one column of the tables.

    Attributes:
        key: its name in the CSV file.
        title: its name in words.
        unit: "%", or nothing.
        values: reads it from a cell.
        short: its heading in the terminal; default the title.
        axis: its axis; default the view's.
        log: whether it is drawn logarithmically.
        whole: whether it counts something: whole numbers, on an axis from zero.
        share: metrics with the same word here share their vertical axis, so that they can be compared.
        joined: whether points are joined by a line; those with names, each name's own.
        ranged: whether the range over trials is printed.
        optional: whether it is left out of the figure of a study that has no value of it.
        form: a number as the report prints it, without unit; default by what the metric is.
        lines: from the cells of one network and their curves to the lines to compare with.
    """

    key: str
    title: str
    unit: str
    values: Callable[[CellResult], Values]
    short: str = ""
    axis: Axis | None = None
    log: bool = False
    whole: bool = False
    share: str = ""
    joined: bool = True
    ranged: bool = True
    optional: bool = False
    form: Callable[[float], str] | None = None
    lines: Callable[[Sequence[CellResult], Sequence[Curve]], Iterable[Line]] = no_lines

    @property
    def heading(self) -> str:
        """The title with the unit."""
        return self.title + (f" ({self.unit})" if self.unit else "")

    def shown(self, number: float) -> str:
        """The number as the report prints it, without its unit."""
        if self.form:
            return self.form(number)
        if self.whole or (self.log and 1000 <= number < 1e6):
            return f"{number:,.0f}"
        return f"{number:.3g}" if self.log else f"{number:.2f}"

    def printed(self, point: Point) -> dict[str, str]:
        """The mean and, of more than one trial, the range."""
        spread = f"{self.shown(point.low)}–{self.shown(point.high)}" if point.n > 1 and self.ranged else ""
        return {"mean": self.shown(point.mean), "range": spread}


@dataclass(frozen=True)
class LayerTable:
    """The table of layer densities.

    Attributes:
        arms: of which arms, a table each.
        note: what it shows, in a sentence or two.
        by_round: whether a row is headed by its round; else by its place on the axis.
        none: what is said where no such cell is finished.
    """

    arms: tuple[str, ...]
    note: str
    by_round: bool = False
    none: str = "None of these is finished yet."


def own_name(arm: str, _round: int, /) -> str:
    """The arm itself."""
    return arm


@dataclass(frozen=True)
class View:
    """How the results of a kind of study are reported.

    Attributes:
        axis: along which places lie.
        metrics: the panels; each network has a row of them.
        arms: what is compared, in this order (see `prunus.studies.report.style.arms`).
        reading: from the view and results to paragraphs that say what came out, each sentence only where it holds.
        terms: the words of the page that need saying, each with what it means.
        source: where the study comes from.
        lines: the words of the lines that metrics are compared with, by name. Cells whose arm is one of them are no
            curve: they are in the tables, and `Metric.lines` finds them among its curves.
        columns: metrics that are in the tables and the CSV file only.
        called: what an arm at a round is called, where that is not the arm: one of `lines`, such as the dense network.
        layers: which table of layer densities there is; None is none.
        beside: how many panels stand beside each other, before another row begins; 0 is all.

    Raises:
        Invalid: if a name of an arm or a line is not made of small letters, digits and hyphens, or is there twice.
    """

    axis: Axis
    metrics: tuple[Metric, ...]
    arms: Mapping[str, Arm]
    reading: Callable[["View", Results], list[str]]
    terms: Sequence[tuple[str, str]] = ()
    source: str = ""
    lines: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[Metric, ...] = ()
    called: Callable[[str, int], str] = own_name
    layers: LayerTable | None = None
    beside: int = 0

    def __post_init__(self) -> None:
        for name in (*self.arms, *self.lines):
            if not NAME.fullmatch(name) or (name in self.arms and name in self.lines):
                raise Invalid(f"arm or line is {name!r}; allowed: small letters, digits and hyphens, each name once")

    def axis_of(self, metric: Metric) -> Axis:
        """The axis of a metric."""
        return metric.axis or self.axis

    @property
    def words(self) -> dict[str, str]:
        """The words of lines and arms, by name."""
        return {**self.lines, **{name: arm.words for name, arm in self.arms.items()}}

    @property
    def tables(self) -> list[tuple[Axis, tuple[Metric, ...]]]:
        """The metrics of each table: those that have the same axis."""
        axes = {axis.key: axis for axis in map(self.axis_of, (*self.metrics, *self.columns))}
        return [(axis, self.along(axis)) for axis in axes.values()]

    def along(self, axis: Axis) -> tuple[Metric, ...]:
        """The metrics that have this axis."""
        return tuple(m for m in (*self.metrics, *self.columns) if self.axis_of(m).key == axis.key)
