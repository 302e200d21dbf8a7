"""How the conservation study is reported."""

from collections.abc import Iterable, Sequence
from math import log10
from statistics import fmean

from prunus.studies.kinds.initialization.metrics import CRITERIA
from prunus.studies.report.curves import networks
from prunus.studies.report.view import Axis, Curve, Line, Metric, View
from prunus.studies.report.words import called
from prunus.studies.results import CellResult, Results

SIZE = Axis(
    key="layer_size",
    label="Weights in the layer",
    name="layer size",
    shown="{:,.0f}".format,
    each="layer",
    column="Layer size",
    note="Each point is a layer.",
)


def mean_scores(cell: CellResult) -> list[tuple[float, float, str]]:
    """(size, size of the mean score over that of all weights, name) of each layer that has a score at all."""
    layers = cell.measures["layers"]
    overall = sum(abs(layer["sum"]) for layer in layers) / sum(layer["size"] for layer in layers)
    return [
        (layer["size"], abs(layer["sum"]) / layer["size"] / overall, layer["name"].removesuffix(".weight"))
        for layer in layers
        if layer["sum"] and overall
    ]


def _inverse(cells: Sequence[CellResult], _curves: Sequence[Curve], /) -> Iterable[Line]:
    """Where every layer has the same sum."""
    if not cells:
        return []
    sizes = [layer["size"] for layer in cells[0].measures["layers"]]
    share = sum(sizes) / len(sizes)
    return [Line("inverse", points=((min(sizes), share / min(sizes)), (max(sizes), share / max(sizes))))]


MEAN = Metric(
    "mean_score", "Mean score of a layer over the network's", "", mean_scores, log=True, joined=False, lines=_inverse
)


def slope(cell: CellResult) -> float:
    """Of the least-squares line through the logarithms: −1 is the inverse law."""
    points = [(log10(size), log10(mean)) for size, mean, _ in mean_scores(cell)]
    x0, y0 = (fmean(values) for values in zip(*points, strict=True))
    spread = sum((x - x0) ** 2 for x, _ in points)
    return sum((x - x0) * (y - y0) for x, y in points) / spread if spread else float("nan")


def reading(_view: View, results: Results) -> list[str]:
    """A paragraph for each network: slopes, and the error of the laws."""
    said = []
    for network in networks(results):
        cells = [cell for cell in results.cells if cell.network == network]
        arms = dict.fromkeys(cell.arm for cell in cells)
        slopes = {arm: fmean(slope(cell) for cell in cells if cell.arm == arm) for arm in arms}
        each = ", ".join(f"{CRITERIA[arm].words} {value:+.2f}" for arm, value in slopes.items())
        said.append(
            f"{called(network)}: mean score goes with layer size to the power of {each}. {_laws(cells)}".strip()
        )
    return said


def _laws(cells: list[CellResult]) -> str:
    measured = [cell for cell in cells if "layer_error" in cell.measures]
    if not measured:
        return ""
    cell = measured[0]
    layers, neurons = (max(c.measures[key] for c in measured) for key in ("layer_error", "neuron_error"))
    return (
        f"Synaptic flow is the same through {len(cell.measures['cuts'])} of {len(cell.measures['layers'])} layers, "
        f"those that all paths go through, to a relative error of {layers:.1g}; what flows into a neuron flows out of "
        f"it to {neurons:.1g}."
    )


VIEW = View(
    axis=SIZE,
    metrics=(MEAN,),
    arms=CRITERIA,
    reading=reading,
    terms=(
        ("Mean score", "The sum of a layer's scores, without its sign, over its size; 1 is the mean of the network."),
        (
            "The inverse law",
            "Where each layer has the same sum of scores, the mean goes with 1 / size: the dashed line.",
        ),
        ("Trial", "A repetition with other initial weights and scoring data."),
    ),
    source=(
        "After Tanaka, Kunin, Yamins & Ganguli, “Pruning neural networks without any data by iteratively conserving "
        "synaptic flow”, NeurIPS 2020."
    ),
    lines={"inverse": "the same sum in each layer"},
)
