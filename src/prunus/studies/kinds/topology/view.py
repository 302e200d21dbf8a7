"""How the topology study is reported."""

from collections.abc import Callable
from dataclasses import replace

from prunus.studies.kinds.sparse_training.metrics import ACCURACY, ARMS, DENSITY, INFERENCE, TRAINING
from prunus.studies.kinds.topology.reading import reading
from prunus.studies.report.view import Axis, Metric, Values, View
from prunus.studies.report.words import percent
from prunus.studies.results import CellResult

STEP = Axis(key="step", label="Step", name="step", shown="{:,.0f}".format, log=False)
EVER_ACTIVE = Axis(
    key="ever_active_percent",
    label="Weights ever active (%)",
    name="weights ever active",
    x=lambda cell: 100 * cell.measures["explored"][-1],
    shown=percent,
    unit="%",
    log=False,
)


def _over_time(name: str, factor: float = 100) -> Callable[[CellResult], Values]:
    return lambda cell: [
        (step, factor * value) for step, value in zip(cell.measures["steps"], cell.measures[name], strict=True)
    ]


def _layers(cell: CellResult) -> Values:
    steps, layers = cell.measures["steps"], cell.measures["layers"]
    return [
        (step, 100 * density, name.removesuffix(".weight"))
        for name, densities in layers.items()
        for step, density in zip(steps, densities, strict=True)
    ]


LOST = Metric("first_mask_lost", "Weights of the first mask lost", "%", _over_time("lost"), "lost, %", axis=STEP)
EXPLORED = Metric("ever_active", "Weights ever active", "%", _over_time("explored"), "ever active, %", axis=STEP)
DEAD = Metric("dead_units", "Dead units", "%", _over_time("dead"), "dead, %", axis=STEP)
REVIVED = Metric("revived", "Units revived so far", "", _over_time("revived", 1), "revived", axis=STEP, whole=True)
DIED = Metric("died", "Units that died so far", "", _over_time("died", 1), "died", axis=STEP, whole=True)
DISTANCE = Metric("jaccard_distance", "Jaccard distance", "%", _over_time("distance"), "Jaccard, %", axis=STEP)
LAYERS = Metric(
    "layer_density",
    "Density of each layer",
    "%",
    _layers,
    "density, %",
    axis=replace(STEP, key="layer_step", each="layer"),
    log=True,
)
BY_EXPLORED = replace(
    ACCURACY, key="test_accuracy_by_ever_active", title="Accuracy by weights ever active", axis=EVER_ACTIVE, share=""
)

VIEW = View(
    axis=replace(DENSITY, note=""),
    metrics=(LOST, EXPLORED, BY_EXPLORED, DEAD, REVIVED, LAYERS),
    columns=(DISTANCE, DIED, ACCURACY, INFERENCE, TRAINING),
    arms=ARMS,
    reading=reading,
    terms=(
        ("Static", "Random masks that never change."),
        ("Weights of the first mask lost", "Those that training began with and that are not active now."),
        (
            "Jaccard distance",
            "Of the first mask and the one of now: 1 less the weights that both have over those that either has.",
        ),
        (
            "Weights ever active",
            "The share of all weights that some mask has had so far: the in-time over-parameterisation.",
        ),
        (
            "Dead unit",
            "A unit or channel without a weight to it, or without one from it to the next layer. Units that died and "
            "revived between two updates do not count.",
        ),
        ("Density of each layer", "Of the weights of a layer, how many are active; a line for each layer."),
        ("FLOPs", "As in the sparse-training study: of products with weights, over those of the dense network."),
        ("Trial", "A repetition with other initial weights, masks and data order."),
    ),
    source=(
        "After Liu, Yin, Mocanu & Pechenizkiy, “Do we actually need dense over-parameterization? In-time "
        "over-parameterization in sparse training”, ICML 2021."
    ),
    beside=3,
)
