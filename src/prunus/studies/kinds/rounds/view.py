"""How the rounds study is reported."""

from collections.abc import Iterable, Sequence

from prunus.studies.kinds.initialization.metrics import ON_A_PATH
from prunus.studies.report.curves import networks
from prunus.studies.report.style import arms
from prunus.studies.report.view import Axis, Curve, Line, Metric, View
from prunus.studies.report.words import called
from prunus.studies.results import CellResult, Results

ARMS = arms({"exponential": "exponential schedule", "linear": "linear schedule"})

NUMBER = Axis(
    key="rounds",
    label="Rounds",
    name="rounds",
    x=lambda cell: cell.measures["rounds"],
    shown="{:,.0f}".format,
    at_points=True,
)


def _one(_cells: Sequence[CellResult], _curves: Sequence[Curve], /) -> Iterable[Line]:
    return [Line("enough", y=1.0)]


TAKEN = Metric(
    "most_taken_in_a_round",
    "Flow taken in a round / a layer's",
    "",
    lambda cell: cell.measures["taken"],
    short="taken / layer's flow",
    log=True,
    lines=_one,
)
EMPTY = Metric(
    "empty_layers", "Layers without a weight", "", lambda cell: len(cell.measures["empty"]), short="empty", whole=True
)


def reading(_view: View, results: Results) -> list[str]:
    """A paragraph for each network and ratio: how many rounds are enough."""
    said = []
    for network in networks(results):
        cells = [cell for cell in results.cells if cell.network == network]
        for exponent in dict.fromkeys(cell.measures["exponent"] for cell in cells):
            parts = [_enough(arm, cells, exponent) for arm in ARMS]
            said.append(f"{called(network)} at 10^{exponent:g}: " + " ".join(part for part in parts if part))
    return said


def _enough(arm: str, cells: list[CellResult], exponent: float) -> str:
    own = [cell for cell in cells if cell.arm == arm and cell.measures["exponent"] == exponent]
    if not own:
        return ""
    below = {
        number for number in (c.measures["rounds"] for c in own) if _all(own, number, lambda c: c.measures["taken"] < 1)
    }
    whole = {
        number for number in (c.measures["rounds"] for c in own) if _all(own, number, lambda c: not c.measures["empty"])
    }
    most = max(cell.measures["rounds"] for cell in own)
    flow = (
        f"each takes less than a layer's flow from {min(below)} rounds on" if below else f"{most} take more than that"
    )
    empty = f"no layer is emptied with {min(whole)} or more" if whole else f"layers are emptied even with {most}"
    return f"with the {ARMS[arm].words} {empty}; {flow}."


def _all(cells: list[CellResult], least: int, test: object) -> bool:
    return all(test(cell) for cell in cells if cell.measures["rounds"] >= least)  # type: ignore[operator]


VIEW = View(
    axis=NUMBER,
    metrics=(TAKEN, EMPTY, ON_A_PATH),
    arms=ARMS,
    reading=reading,
    terms=(
        (
            "Taken in a round",
            "The scores that a round prunes, over the flow through a layer that all paths go through. Below 1 in each "
            "round, no layer can be emptied while another keeps two weights.",
        ),
        ("Exponential schedule", "Each round keeps the same fraction of what is left."),
        ("Linear schedule", "Each round takes the same number of weights."),
        ("Trial", "A repetition with other initial weights."),
    ),
    source=(
        "After Tanaka, Kunin, Yamins & Ganguli, “Pruning neural networks without any data by iteratively conserving "
        "synaptic flow”, NeurIPS 2020."
    ),
    lines={"enough": "a layer's flow"},
)
