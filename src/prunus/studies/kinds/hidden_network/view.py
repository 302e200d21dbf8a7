"""How the hidden-network study is reported."""

from statistics import fmean

from prunus.studies.kinds.accuracy import accuracy
from prunus.studies.kinds.supermask.metrics import ACCURACY, ARMS, DENSITY, KEPT, SIZE
from prunus.studies.report.curves import curves, networks
from prunus.studies.report.view import View
from prunus.studies.report.words import called, percent
from prunus.studies.results import Results


def reading(view: View, results: Results) -> list[str]:
    """A paragraph for each network: the best mask of each method beside the trained network."""
    said = []
    for network in networks(results):
        dense = [
            a for c in results.cells if (c.network, c.arm) == (network, "dense") and (a := accuracy(c)) is not None
        ]
        parts = []
        for curve in curves(view, results, network, ACCURACY):
            if curve.arm in view.arms:
                best = max(curve.points, key=lambda point: point.mean)
                where = f"{best.mean:.1f} % with {percent(best.x)} % of the weights"
                parts.append(f"{view.arms[curve.arm].words} reaches {where}")
        trained = f"the dense network trains to {fmean(dense):.1f} %" if dense else "no dense network is finished yet"
        said.append(f"{called(network)}: {'; '.join([trained, *parts])}.")
    return said


VIEW = View(
    axis=DENSITY,
    metrics=(ACCURACY,),
    columns=(KEPT, SIZE),
    arms=ARMS,
    reading=reading,
    terms=(
        ("Supermask", "A mask that is learned over weights that are drawn once and never trained."),
        ("Global", "The scores of all layers are ranked together; else each layer keeps the same share."),
        ("Rescaled", "The weights of a layer are multiplied by its size over how many are drawn."),
        (
            "Weights kept",
            "The density. Where masks are drawn in each forward pass, the mean probability of a weight; the number "
            "kept is then that of the most probable mask.",
        ),
        (
            "Size over that of dense weights",
            "The entropy of the masks, n · H(kept / n) bits a layer, over 32 bits a weight. The weights themselves are "
            "a seed.",
        ),
        ("Trial", "A repetition with other weights, scores and data order."),
    ),
    source=(
        "After Ramanujan, Wortsman, Kembhavi, Farhadi & Rastegari, “What's hidden in a randomly weighted neural "
        "network?”, CVPR 2020."
    ),
    lines={"dense": "dense network, trained"},
)
