"""How the width study is reported."""

from prunus.studies.kinds.supermask.arms import WORDS as MASKS
from prunus.studies.kinds.supermask.metrics import ACCURACY, KEPT, SIZE, WIDTH
from prunus.studies.report.curves import curves, networks
from prunus.studies.report.style import arms
from prunus.studies.report.view import Curve, View
from prunus.studies.report.words import called
from prunus.studies.results import Results

ARMS = arms({"trained": "dense network, trained", **MASKS})


def reading(view: View, results: Results) -> list[str]:
    """A paragraph for each network: the gap to the trained network at the ends, and where it is closed."""
    said = []
    for network in networks(results):
        measured = {curve.arm: curve for curve in curves(view, results, network, ACCURACY)}
        parts = [part for arm in MASKS if arm in measured and (part := _gap(measured[arm], measured.get("trained")))]
        said.append(f"{called(network)}: " + (" ".join(parts) or "too little is finished yet to compare anything."))
    return said


def _gap(curve: Curve, trained: Curve | None) -> str:
    both = [(p, t) for p in curve.points if trained and (t := trained.at(p.round))]
    if not both:
        return ""
    name = MASKS[curve.arm]
    ends = both if len(both) == 1 else (both[0], both[-1])
    gaps = [f"{t.mean - p.mean:+.1f} points at width {p.x:.3g}" for p, t in ends]
    met = next((p for p, t in both if p.mean >= t.mean), None)
    meets = f"; it is first met at width {met.x:.3g}" if met else ""
    return f"the trained network of the same width is ahead of {name} by {' and by '.join(gaps)}{meets}."


VIEW = View(
    axis=WIDTH,
    metrics=(ACCURACY,),
    columns=(KEPT, SIZE),
    arms=ARMS,
    reading=reading,
    terms=(
        ("Supermask", "A mask that is learned over weights that are drawn once and never trained."),
        ("Width", "A factor on the units and channels of every hidden layer of the study's network, `model.width`."),
        ("Trial", "A repetition with other weights, scores and data order."),
    ),
    source=(
        "After Ramanujan, Wortsman, Kembhavi, Farhadi & Rastegari, “What's hidden in a randomly weighted neural "
        "network?”, CVPR 2020."
    ),
)
