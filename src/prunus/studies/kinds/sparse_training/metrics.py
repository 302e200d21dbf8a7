"""Axes and metrics that the studies of sparse training share."""

from dataclasses import replace

from prunus.studies.kinds.accuracy import accuracy, dense_level
from prunus.studies.kinds.sparse_training.arms import longer, words
from prunus.studies.report.style import PALETTE, Arm, Look
from prunus.studies.report.view import Axis, Metric
from prunus.studies.report.words import percent
from prunus.studies.results import CellResult


def _look(number: int) -> Look:
    """The looks of the palette, and after them its colours with the markers of others."""
    again, place = divmod(number, len(PALETTE))
    other = PALETTE[(place + 3 * again) % len(PALETTE)]
    return replace(PALETTE[place], marker=other.marker, shape=other.shape)


def _arms() -> dict[str, Arm]:
    said = words()
    looks = [_look(i) for i in range(len(said))]
    made = {name: (each, length) for name, each, length in longer(said)}
    return {name: Arm(each, looks[i % len(said)]) for i, (name, (each, _)) in enumerate(made.items())}


#: Every arm at every length; those of one method look alike, and longer ones are dashed.
ARMS = _arms()

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
    descending=True,
    at_points=True,
    note="The axis of weights is logarithmic and runs from dense to sparse.",
)

FLOPS = Axis(
    key="training_flops_percent",
    label="FLOPs of training (% of dense training)",
    name="FLOPs of training",
    x=lambda cell: 100 * cell.measures["training"],
    shown="{:.3g}".format,
    unit="%",
    said=lambda x: f"{x:.3g} % of the FLOPs of dense training",
    column="Training FLOPs (%)",
    short="FLOPs, %",
)


def _share(name: str) -> object:
    return lambda cell: 100 * cell.measures[name]


ACCURACY = Metric(
    "test_accuracy",
    "Test accuracy at end of training",
    "%",
    accuracy,
    short="test at end, %",
    share="accuracy",
    lines=dense_level,
)


def _beside_flops(cell: CellResult) -> float | None:
    return None if cell.arm == "dense" else accuracy(cell)


BY_FLOPS = Metric(
    "test_accuracy_by_flops",
    "Test accuracy against training FLOPs",
    "%",
    accuracy,
    short="test at end, %",
    axis=FLOPS,
    share="accuracy",
    lines=dense_level,
)
SPARSITY = Metric("sparsity", "Sparsity", "%", lambda cell: 100 * (1 - cell.measures["density"]), form=percent)
COMPRESSION = Metric("compression", "Compression", "×", lambda cell: 1 / cell.measures["density"], form="{:.3g}".format)
INFERENCE = Metric(
    "inference_flops", "Inference FLOPs", "% of dense", lambda cell: 100 * cell.measures["inference"],
    short="inference, %", form="{:.3g}".format,
)  # fmt: skip
TRAINING = Metric(
    "training_flops", "Training FLOPs", "% of dense", lambda cell: 100 * cell.measures["training"],
    short="training, %", form="{:.3g}".format,
)  # fmt: skip
