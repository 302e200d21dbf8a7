"""How the sanity study is reported: a panel for each criterion."""

from statistics import fmean

from prunus.studies.kinds.accuracy import accuracy, dense_level
from prunus.studies.kinds.initialization.metrics import COMPRESSION, CRITERIA, power
from prunus.studies.report.curves import networks
from prunus.studies.report.style import arms
from prunus.studies.report.view import Metric, View
from prunus.studies.report.words import called
from prunus.studies.results import CellResult, Results

ARMS = arms(
    {
        "original": "as the criterion says",
        "shuffled": "shuffled within layers",
        "reinitialised": "re-initialised weights",
        "inverted": "inverted scores",
    }
)

#: The criteria that have a panel.
SHOWN = ("snip", "grasp", "synflow", "magnitude")


def _of(criterion: str) -> Metric:
    def value(cell: CellResult) -> float | None:
        return accuracy(cell) if cell.measures.get("criterion") == criterion else None

    words = CRITERIA[criterion].words
    return Metric(
        f"test_accuracy_{criterion}",
        f"{words[0].upper()}{words[1:]}: test accuracy",
        "%",
        value,
        short=f"{words}, %",
        share="accuracy",
        lines=dense_level,
        optional=True,
    )


def reading(_view: View, results: Results) -> list[str]:
    """A paragraph for each network: what each control changes, at the sparsest ratio."""
    said = []
    for network in networks(results):
        cells = [cell for cell in results.cells if cell.network == network]
        parts = [part for criterion in SHOWN if (part := _changes(cells, criterion))]
        said.append(f"{called(network)}: " + (" ".join(parts) or "too little is finished yet to compare anything."))
    return said


def _changes(cells: list[CellResult], criterion: str) -> str:
    own = [c for c in cells if c.measures.get("criterion") == criterion and accuracy(c) is not None]
    if not own:
        return ""
    last = max(own, key=lambda cell: cell.total / cell.kept)
    means: dict[str, list[float]] = {}
    for cell in own:
        if cell.round == last.round:
            means.setdefault(cell.arm, []).append(accuracy(cell) or 0.0)
    each = ", ".join(f"{ARMS[arm].words} {fmean(means[arm]):.1f}" for arm in ARMS if arm in means)
    return f"{CRITERIA[criterion].words} at {power(last.total / last.kept)}: {each} % test accuracy."


VIEW = View(
    axis=COMPRESSION,
    metrics=tuple(map(_of, SHOWN)),
    arms=ARMS,
    reading=reading,
    terms=(
        ("Shuffled within layers", "As many weights are kept in each layer, at random places."),
        ("Re-initialised weights", "The same mask on weights that were drawn anew."),
        ("Inverted scores", "The weights are kept that the criterion would prune first."),
        ("Trial", "A repetition with other initial weights, data order and scoring data."),
    ),
    source=(
        "After Frankle, Dziugaite, Roy & Carbin, “Pruning neural networks at initialization: why are we missing the "
        "mark?”, ICLR 2021."
    ),
    lines={"dense": "dense network"},
)
