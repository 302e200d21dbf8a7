"""How the fixed-budget study is reported."""

from prunus.studies.kinds.supermask.metrics import ACCURACY, ARMS, KEPT, SIZE, WIDTH
from prunus.studies.report.curves import curves, networks
from prunus.studies.report.view import Metric, View
from prunus.studies.report.words import called, percent
from prunus.studies.results import Results

SHARE = Metric(
    "density_percent",
    "Weights kept",
    "%",
    lambda cell: None if cell.arm == "dense" else 100 * cell.density,
    short="kept, %",
    log=True,
    form=percent,
)


def reading(view: View, results: Results) -> list[str]:
    """A paragraph for each network: the best width of each method."""
    said = []
    for network in networks(results):
        parts = []
        for curve in curves(view, results, network, ACCURACY):
            if curve.arm not in view.arms or len(curve.points) < 2:
                continue
            first, best = curve.points[0], max(curve.points, key=lambda point: point.mean)
            parts.append(
                f"with as many weights kept, {view.arms[curve.arm].words} is best at width {best.x:.3g} "
                f"({best.mean:.1f} %, against {first.mean:.1f} % at width {first.x:.3g})"
            )
        said.append(f"{called(network)}: {'; '.join(parts) or 'too little is finished yet to compare anything'}.")
    return said


VIEW = View(
    axis=WIDTH,
    metrics=(ACCURACY, SHARE),
    columns=(KEPT, SIZE),
    arms=ARMS,
    reading=reading,
    terms=(
        ("Supermask", "A mask that is learned over weights that are drawn once and never trained."),
        ("Width", "A factor on the units and channels of every hidden layer of the study's network, `model.width`."),
        (
            "Budget",
            "As many weights are kept at each width, but for a rounding in each layer; the wider the network, the "
            "sparser.",
        ),
        ("Trial", "A repetition with other weights, scores and data order."),
    ),
    source=(
        "After Ramanujan, Wortsman, Kembhavi, Farhadi & Rastegari, “What's hidden in a randomly weighted neural "
        "network?”, CVPR 2020."
    ),
    lines={"dense": "dense network, trained, width 1"},
)
