"""Axes and metrics that the studies of supermasks share."""

from math import log2

from prunus.core.summary import Layer
from prunus.studies.kinds.accuracy import accuracy, dense_level
from prunus.studies.kinds.supermask.arms import WORDS
from prunus.studies.report.style import arms
from prunus.studies.report.view import Axis, Metric
from prunus.studies.report.words import percent
from prunus.studies.results import CellResult

ARMS = arms(WORDS)

DENSITY = Axis(
    key="density_percent",
    label="Weights kept (%)",
    name="weights kept",
    x=lambda cell: 100 * cell.measures["density"],
    shown=percent,
    unit="%",
    said=lambda x: f"{percent(x)} % of the weights",
    column="Weights (%)",
    short="kept, %",
    note="The axis of weights is logarithmic. A method without a target is where training has taken it.",
)

WIDTH = Axis(
    key="width",
    label="Width, as a factor on all hidden layers",
    name="width",
    x=lambda cell: cell.measures["width"],
    shown="{:.3g}".format,
    column="Width",
    short="width",
    at_points=True,
    note="The axis of widths is logarithmic.",
)


def bits(layer: Layer) -> float:
    """The least that the mask of a layer takes, in bits: n · H(kept / n)."""
    k = layer.kept / layer.total if layer.total else 0.0
    return 0.0 if k in (0.0, 1.0) else -layer.total * (k * log2(k) + (1 - k) * log2(1 - k))


def size(cell: CellResult) -> float | None:
    """The least that all masks take, in percent of the weights as 32-bit floats; None where weights are trained."""
    if cell.arm in ("dense", "trained", "neural-wirings"):
        return None
    return 100 * sum(map(bits, cell.layers)) / (32 * cell.total)


ACCURACY = Metric(
    "test_accuracy",
    "Test accuracy at end of training",
    "%",
    accuracy,
    short="test at end, %",
    share="accuracy",
    lines=dense_level,
)
KEPT = Metric(
    "weights_kept", "Weights kept", "", lambda cell: float(cell.kept) if cell.kept else None, short="kept", whole=True
)
SIZE = Metric("mask_size", "Size over that of dense weights", "%", size, short="size, % of dense")
