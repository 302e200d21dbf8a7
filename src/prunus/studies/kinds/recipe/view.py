"""How the recipe study is reported: a row for each kind of mask."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from prunus.studies.kinds.accuracy import dense_level
from prunus.studies.kinds.recipe.arms import PARTS_OF, PLAIN, WORDS
from prunus.studies.kinds.supermask.metrics import ACCURACY, DENSITY
from prunus.studies.report.curves import curves, networks
from prunus.studies.report.style import arms
from prunus.studies.report.view import Curve, Line, Metric, Point, View
from prunus.studies.report.words import called, percent
from prunus.studies.results import CellResult, Results


def _no_gain(_cells: Sequence[CellResult], _curves: Sequence[Curve], /) -> Iterable[Line]:
    return [Line("none", y=0.0)]


AXIS = replace(
    DENSITY,
    descending=True,
    at_points=True,
    of_curves=True,
    note="The axis of weights is logarithmic and runs from dense to sparse.",
)
GAIN = Metric(
    "gain",
    "Difference to plain training",
    "points",
    lambda cell: cell.measures.get("gain"),
    short="to plain, points",
    form="{:+.2f}".format,
    lines=_no_gain,
)


def reading(view: View, results: Results) -> list[str]:
    """A paragraph for each row: plain training and what each arm adds to it, at the sparsest density."""
    said = []
    for network in networks(results):
        level = dense_level([cell for cell in results.cells if cell.network == network], ())
        dense = [f"the dense network trains to {line.y:.1f} %." for line in level]
        said.append(f"{called(network)}: " + " ".join([*dense, _gains(view, results, network)]))
    return said


def _gains(view: View, results: Results, network: str) -> str:
    plain = next((c for c in curves(view, results, network, ACCURACY) if c.arm == PLAIN), None)
    gains = {curve.arm: curve for curve in curves(view, results, network, GAIN)}
    both = [p for p in plain.points if any(c.at(p.round) for c in gains.values())] if plain else []
    if not both:
        return "Too little is finished yet to compare anything."
    last = both[-1]
    parts = [f"{WORDS[arm]} {_said(p)}" for arm in PARTS_OF if arm in gains and (p := gains[arm].at(last.round))]
    where = f"At {percent(100 - last.x)} % sparsity plain training reaches {last.mean:.1f} %"
    return f"{where}; points that are added to it: {', '.join(parts)}."


def _said(point: Point) -> str:
    spread = f" ({point.low:+.1f} to {point.high:+.1f})" if point.n > 1 else ""
    return f"{point.mean:+.1f}{spread}"


VIEW = View(
    axis=AXIS,
    metrics=(ACCURACY, GAIN),
    arms=arms(WORDS),
    reading=reading,
    terms=(
        ("Plain training", "The same mask, initial weights, data order and number of steps without any of the parts."),
        ("Soft neurons", "Smooth activations in the place of ReLU, which sharpen into it early in training."),
        ("Ghost skips", "Shortcuts around layers, which fade away early in training."),
        ("Label smoothing", "Targets that leave some probability to the classes that are not the true one."),
        ("Rescaled initialisation", "One learned factor on each tensor of initial weights, before training."),
        ("Difference to plain training", "In points of test accuracy, trial by trial."),
        ("Trial", "A repetition with other initial weights, mask and data order."),
    ),
    source=(
        "After Jaiswal, Ma, Chen, Ding & Wang, “Training your sparse neural network better with any mask”, ICML 2022."
    ),
    lines={"dense": "dense network", "none": "no difference"},
)
