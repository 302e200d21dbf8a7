"""Axes, metrics and arms that the studies of pruning at initialization share."""

from collections.abc import Iterable, Sequence
from math import log10

from prunus.pruning import CRITERIA as TABLE
from prunus.studies.kinds.accuracy import accuracy, dense_level
from prunus.studies.report.style import arms
from prunus.studies.report.view import NAME, Axis, Curve, Line, Metric
from prunus.studies.results import CellResult

_WORDS = {
    "synflow": "SynFlow",
    "snip": "SNIP",
    "grasp": "GraSP",
    "magnitude": "magnitude",
    "random": "random",
    "iterative-snip": "iterative SNIP",
    "force": "FORCE",
    "saliency": "signed saliency",
}

#: The criteria in the order of the figures, those of other packages last.
CRITERIA = arms({**_WORDS, **{name: name for name in TABLE if name not in _WORDS and NAME.fullmatch(name)}})


def power(ratio: float) -> str:
    """A compression ratio as a power of ten: 10^1.5."""
    return f"10^{log10(ratio):.3g}" if ratio > 0 else "0"


COMPRESSION = Axis(
    key="compression",
    label="Compression ratio",
    name="compression ratio",
    x=lambda cell: cell.total / cell.kept,
    shown=power,
    column="Compression",
    short="compression",
    note="The compression ratio is that of all prunable weights to those that are kept.",
)


def maximum(cells: Sequence[CellResult], _curves: Sequence[Curve], /) -> Iterable[Line]:
    """The compression ratio at which each layer has one weight."""
    return [Line("maximum", x=cells[0].total / len(cells[0].layers))] if cells and cells[0].layers else []


ACCURACY = Metric(
    "test_accuracy",
    "Test accuracy at end of training",
    "%",
    accuracy,
    short="test at end, %",
    lines=dense_level,
    optional=True,
)
EMPTIEST = Metric(
    "weights_of_emptiest_layer",
    "Weights left in the emptiest layer",
    "",
    lambda cell: cell.measures.get("emptiest") or None,
    short="emptiest layer",
    log=True,
    form="{:,.4g}".format,
    lines=maximum,
)
ON_A_PATH = Metric(
    "kept_weights_on_a_path",
    "Kept weights that are on a path",
    "%",
    lambda cell: 100 * cell.measures["effective"] / cell.kept if "effective" in cell.measures else None,
    short="on a path, %",
)
WORK = Metric(
    "work_left",
    "Multiply-accumulates left",
    "%",
    lambda cell: 100 * cell.measures["work"] if "work" in cell.measures else None,
    short="work, %",
    log=True,
)
