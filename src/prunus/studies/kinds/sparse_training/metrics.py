"""Axes and metrics of the sparse-training study, and how its arms look."""

from collections.abc import Callable
from dataclasses import replace

from prunus.studies.kinds.accuracy import accuracy, dense_level
from prunus.studies.kinds.sparse_training.arms import LONGEST, METHOD_OF, each_length, named, words
from prunus.studies.report.style import PALETTE, Arm, Look
from prunus.studies.report.view import Axis, Metric
from prunus.studies.report.words import percent
from prunus.studies.results import CellResult

#: How lines are dashed where a training is longer: twice as long, and more.
_DASHES = {1: (), 2: (4.0, 1.6)}
_MORE = (1.2, 1.2)


#: The colours of arms that the palette has none left for, on white paper and on dark.
_COLOURS = {
    "dsr": ("#882255", "#d07aa8"),
    "top-kast": ("#7a4a12", "#d3a066"),
    "str": ("#332288", "#9a8fe8"),
    "srigl": ("#777777", "#b5b5b5"),
    "narrow": ("#aa3377", "#ff8fc0"),
}


def _look(arm: str) -> Look:
    """Its own; that of the method with another marker where the arm is another form of one."""
    place = list(words()).index(METHOD_OF.get(arm, arm))
    own, other = PALETTE[place % len(PALETTE)], PALETTE[(place + (5 if arm.endswith("-n-m") else 3)) % len(PALETTE)]
    if arm in METHOD_OF:
        return replace(own, marker=other.marker, shape=other.shape)
    colour, dark = _COLOURS.get(arm, (own.colour, own.dark))
    return replace(own, colour=colour, dark=dark)


def _arms() -> dict[str, Arm]:
    looks = {named(arm, length): _look(arm) for arm in words() for length in range(1, LONGEST + 1)}
    return {
        name: Arm(said, replace(looks[name], dashes=_DASHES.get(length, _MORE))) for name, said, length in each_length()
    }


#: Every arm at every length; those of one method differ in their lines alone.
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
    of_curves=True,
    note="The axis of weights is logarithmic and runs from dense to sparse.",
)

_three = "{:.3g}".format

FLOPS = Axis(
    key="training_flops_percent",
    label="FLOPs of training (% of dense training)",
    name="FLOPs of training",
    x=lambda cell: 100 * cell.measures["training"],
    shown=_three,
    unit="%",
    said=lambda x: f"{_three(x)} % of the FLOPs of dense training",
    column="Training FLOPs (%)",
    short="training FLOPs, %",
    of_curves=True,
)


def _percent_of(name: str) -> Callable[[CellResult], float]:
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
BY_FLOPS = replace(ACCURACY, key="test_accuracy_by_flops", title="Test accuracy by training FLOPs", axis=FLOPS)
SPARSITY = Metric(
    "sparsity", "Sparsity", "%", lambda cell: 100 * (1 - cell.measures["density"]), form=percent, ranged=False
)
COMPRESSION = Metric(
    "compression", "Compression", "×", lambda cell: 1 / cell.measures["density"], form=_three, ranged=False
)


def _flops(key: str, title: str, measure: str) -> Metric:
    values = _percent_of(measure)
    return Metric(key, title, "% of dense", values, f"{measure}, %", form=_three, ranged=False)


INFERENCE = _flops("inference_flops", "Inference FLOPs", "inference")
TRAINING = _flops("training_flops", "Training FLOPs", "training")
