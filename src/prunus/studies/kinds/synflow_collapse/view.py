"""How the collapse study is reported."""

from math import log10
from statistics import fmean

from prunus.studies.kinds.initialization.metrics import (
    ACCURACY,
    COMPRESSION,
    CRITERIA,
    EMPTIEST,
    ON_A_PATH,
    WORK,
    accuracy,
    maximum,
    power,
)
from prunus.studies.report.curves import networks
from prunus.studies.report.view import LayerTable, View
from prunus.studies.report.words import called
from prunus.studies.results import CellResult, Results


def reading(_view: View, results: Results) -> list[str]:
    """A paragraph for each network: critical compressions, then accuracies."""
    said = []
    for network in networks(results):
        cells = [cell for cell in results.cells if cell.network == network]
        parts = [_critical(cells), _accuracies(cells), _shortcuts(cells)]
        said.append(" ".join([f"{called(network)}:", *(part for part in parts if part)]))
    return said


def _critical(cells: list[CellResult]) -> str:
    found: dict[str, list[float]] = {}
    for cell in cells:
        if "critical" in cell.measures:
            found.setdefault(cell.arm, []).append(log10(cell.measures["critical"]))
    if not found:
        return ""
    most = next(iter(maximum(cells, ()))).x
    assert most is not None
    ranked = sorted(found, key=lambda arm: -fmean(found[arm]))
    each = ", ".join(f"{CRITERIA[arm].words} 10^{fmean(found[arm]):.2f}" for arm in ranked)
    return f"no layer is emptied up to a compression ratio of {each}; {power(most)} is possible."


def _accuracies(cells: list[CellResult]) -> str:
    trained = [cell for cell in cells if accuracy(cell) is not None and cell.arm != "dense"]
    if not trained:
        return ""
    last = max(trained, key=lambda cell: cell.total / cell.kept)
    means: dict[str, list[float]] = {}
    for cell in trained:
        if cell.round == last.round:
            means.setdefault(cell.arm, []).append(accuracy(cell) or 0.0)
    ranked = sorted(means, key=lambda arm: -fmean(means[arm]))
    each = ", ".join(f"{CRITERIA[arm].words} {fmean(means[arm]):.1f}" for arm in ranked)
    return f"At {power(last.total / last.kept)} the test accuracy is {each} %."


def _shortcuts(cells: list[CellResult]) -> str:
    passed_by = [cell for cell in cells if cell.measures.get("empty") and cell.measures.get("connected")]
    if not passed_by:
        return ""
    first = min(passed_by, key=lambda cell: cell.total / cell.kept)
    names = ", ".join(name.removesuffix(".weight") for name in first.measures["empty"][:3])
    return (
        f"Layers are emptied that paths lead around, first by {CRITERIA[first.arm].words} at "
        f"{power(first.total / first.kept)} ({names}): the network is still connected."
    )


TERMS = (
    (
        "Compression ratio",
        "All prunable weights over those that are kept: 10^2 keeps one weight in a hundred.",
    ),
    (
        "Layer collapse",
        "A layer has no weight left while others have some. The curve of the emptiest layer ends there: its last "
        "point is the critical compression, the largest ratio without an empty layer, found by search.",
    ),
    ("Maximal compression", "One weight in each layer: no criterion can go further without emptying a layer."),
    (
        "On a path",
        "A kept weight counts only if a path of kept weights leads through it from an input to an output.",
    ),
    ("Trial", "A repetition with other initial weights, data order and scoring data."),
)

VIEW = View(
    axis=COMPRESSION,
    metrics=(ACCURACY, EMPTIEST, ON_A_PATH),
    columns=(WORK,),
    arms=CRITERIA,
    reading=reading,
    terms=TERMS,
    source=(
        "After Tanaka, Kunin, Yamins & Ganguli, “Pruning neural networks without any data by iteratively conserving "
        "synaptic flow”, NeurIPS 2020."
    ),
    lines={"dense": "dense network", "maximum": "maximal compression"},
    layers=LayerTable(("synflow",), "Percentage of each layer's weights that SynFlow keeps, mean over trials."),
)
