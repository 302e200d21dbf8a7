"""What a lottery-ticket study measures, along which axis, and what it compares."""

from collections.abc import Iterable, Sequence

from prunus.studies.report.style import arms
from prunus.studies.report.view import Axis, Curve, Line, Metric, Point
from prunus.studies.report.words import percent
from prunus.studies.results import CellResult, Outcome

ARMS = arms(
    {
        "ticket": "winning ticket",
        "reinit": "random re-initialisation",
        "shuffle": "layerwise-shuffled mask",
        "random": "random mask, new weights",
    }
)

WEIGHTS = Axis(
    key="density_percent",
    label="Weights remaining (%)",
    name="weights remaining",
    x=lambda cell: 100 * cell.density,
    shown=percent,
    unit="%",
    said=lambda x: f"{percent(x)} % of the weights",
    column="Weights (%)",
    short="kept, %",
    descending=True,
    at_points=True,
    typical=20,
    note="The axis of weights is logarithmic and runs from dense to sparse.",
)


def dense(measured: Iterable[Curve]) -> Point | None:
    """The dense network: round 0 of the arm "ticket"."""
    return next((curve.at(0) for curve in measured if curve.arm == "ticket"), None)


def called(arm: str, round_: int) -> str:
    """The arm; of the unpruned ticket, the dense network."""
    return "dense" if (arm, round_) == ("ticket", 0) else arm


def _dense_level(_cells: Sequence[CellResult], measured: Sequence[Curve], /) -> Iterable[Line]:
    return [Line("dense", y=level.mean)] if (level := dense(measured)) else []


def test_accuracy(outcome: Outcome | None) -> float | None:
    """In percent; None where it was not measured."""
    return None if outcome is None or outcome.test_accuracy is None else 100 * outcome.test_accuracy


STOP = Metric(
    "early_stop_iteration",
    "Early-stopping iteration",
    "",
    lambda cell: cell.early_stop.iteration if cell.early_stop else None,
    short="early stop, iteration",
    whole=True,
    lines=_dense_level,
)
AT_STOP = Metric(
    "test_accuracy_at_early_stop",
    "Test accuracy at early stop",
    "%",
    lambda cell: test_accuracy(cell.early_stop),
    short="test at stop, %",
    share="accuracy",
    lines=_dense_level,
)
AT_END = Metric(
    "test_accuracy_at_end",
    "Test accuracy at end of training",
    "%",
    lambda cell: test_accuracy(cell.final),
    short="test at end, %",
    share="accuracy",
    lines=_dense_level,
)
METRICS = (STOP, AT_STOP, AT_END)
