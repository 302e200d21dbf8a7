"""What a same-ticket study measures, along which axes, and how what it compares is drawn."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import cycle
from statistics import fmean

from prunus.studies.kinds.accuracy import accuracy
from prunus.studies.kinds.same_ticket.grid import SPACE
from prunus.studies.kinds.same_ticket.names import BETWEEN, FINDERS, RELATIONS, within
from prunus.studies.report.style import PALETTE, Arm, Look
from prunus.studies.report.view import Axis, Curve, Line, Metric
from prunus.studies.report.words import percent
from prunus.studies.results import CellResult


def _looks() -> dict[str, Arm]:
    """A colour for each method and a marker for each relation; what compares two methods is black at first."""
    found = {}
    for (method, words), colour in zip(FINDERS.items(), cycle(PALETTE), strict=False):
        for relation, shape in zip(RELATIONS, PALETTE, strict=False):
            look = Look(colour.colour, colour.dark, shape.marker, shape.shape)
            found[within(method, relation)] = Arm(f"{words}: {relation}", look)
    for (arm, (one, other)), look in zip(BETWEEN.items(), cycle(PALETTE[5:] + PALETTE[:5]), strict=False):
        found[arm] = Arm(f"{FINDERS[one]} & {FINDERS[other]}", look)
    found["ticket"] = Arm("winning tickets", PALETTE[0])
    found["random"] = Arm("random tickets", PALETTE[6])
    return found


ARMS = _looks()

#: Where the explorer of training curves has the random tickets: past all weights.
_PAST = 100


def _kept(cell: CellResult) -> float:
    draw = cell.measures.get("draw")
    return 100 * cell.measures["density"] if draw is None else _PAST + cell.round - SPACE + 1


def _shown(x: float) -> str:
    return f"{percent(x)} %" if x <= _PAST else f"random ticket {x - _PAST:.0f}"


DENSITY = Axis(
    key="density_percent",
    label="Weights kept",
    name="weights kept",
    x=_kept,
    shown=_shown,
    said=lambda x: f"{_shown(x)} of the weights",
    column="Weights",
    short="kept",
    at_points=True,
    typical=10,
    note="The axis of weights is logarithmic. Two runs that are compared are counted as one trial.",
)

#: The same of networks, which have a table of their own beside that of pairs.
NETWORK = replace(DENSITY, key="network_density_percent")

DRAW = Axis(
    key="random_ticket",
    label="Random ticket",
    name="random ticket",
    x=lambda cell: cell.round - SPACE + 1,
    shown="{:.0f}".format,
    said=lambda x: f"random ticket {x:.0f}" if x else "winning tickets",
    column="Random ticket",
    short="ticket",
    log=False,
    note="Left of the random tickets are the winning tickets of all inits.",
)


def of_pairs(name: str, factor: float = 1.0) -> Callable[[CellResult], float | None]:
    """Reads a measure of two masks."""
    return lambda cell: factor * cell.measures[name] if name in cell.measures else None


def times_chance(cell: CellResult) -> float | None:
    """The common fraction over what it is by chance; None where that is nothing."""
    return cell.measures["common"] / cell.measures["chance"] if cell.measures.get("chance") else None


def chance_level(cells: Sequence[CellResult], _curves: Sequence[Curve], /) -> Iterable[Line]:
    """What two masks share by chance, through the densities."""
    found: dict[float, list[float]] = defaultdict(list)
    for cell in cells:
        if "chance" in cell.measures:
            found[_kept(cell)].append(100 * cell.measures["chance"])
    return [Line("chance", points=tuple((x, fmean(found[x])) for x in sorted(found)))] if found else []


def drawn(cell: CellResult) -> float | Sequence[tuple[float, float]] | None:
    """The accuracy of a random ticket at its number, and of the winning tickets left of all."""
    reached = accuracy(cell)
    if reached is None or cell.arm not in ("ticket", "random"):
        return None
    return reached if cell.arm == "random" else [(0.0, reached)]


def winning_level(cells: Sequence[CellResult], _curves: Sequence[Curve], /) -> Iterable[Line]:
    """The accuracy of each trial's ticket, above its random tickets."""
    lines = []
    for ticket in (c for c in cells if c.arm == "ticket" and c.measures["init"] == 0):
        places = [c.round - SPACE + 1 for c in cells if (c.arm, c.trial) == ("random", ticket.trial)]
        if places and (reached := accuracy(ticket)) is not None:
            lines.append(Line("winner", points=((min(places) - 0.5, reached), (max(places) + 0.5, reached))))
    return lines


COMMON = Metric(
    "common_percent",
    "In common, by what differs",
    "%",
    of_pairs("common", 100),
    short="common, %",
    form="{:.1f}".format,
    lines=chance_level,
)
TIMES = Metric(
    "times_chance",
    "In common, times chance",
    "",
    times_chance,
    short="× chance",
    log=True,
    lines=lambda cells, _: [Line("chance", y=1.0)] if any("chance" in c.measures for c in cells) else [],
)
TICKETS = Metric(
    "ticket_test_accuracy",
    "Test accuracy of tickets",
    "%",
    drawn,
    short="test at end, %",
    axis=DRAW,
    joined=False,
    optional=True,
    lines=winning_level,
)
CHANCE = Metric("chance_percent", "By chance", "%", of_pairs("chance", 100), short="chance, %", form="{:.1f}".format)
JACCARD = Metric("jaccard", "Jaccard index", "", of_pairs("jaccard"), short="Jaccard", form="{:.2f}".format)


def _reached(cell: CellResult) -> float | None:
    return None if cell.arm == "random" else accuracy(cell)


ACCURACY = Metric(
    "test_accuracy", "Test accuracy at end of training", "%", _reached, short="test at end, %", axis=NETWORK
)

#: What is no curve: lines to compare with, and rows of the tables.
LINES = {
    "chance": "chance",
    "winner": "ticket of the trial",
    "dense": "dense network",
    **{method: f"mask by {words}" for method, words in FINDERS.items()},
}
