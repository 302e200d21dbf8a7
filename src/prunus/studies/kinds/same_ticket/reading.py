"""The result of a same-ticket study in plain words: sentences made from the numbers, each only where it holds."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import isfinite
from statistics import fmean, stdev

from prunus.studies.kinds.accuracy import accuracy
from prunus.studies.kinds.same_ticket.names import BETWEEN, FINDERS, MAGNITUDE, RELATIONS, within
from prunus.studies.report.curves import networks
from prunus.studies.report.view import View
from prunus.studies.report.words import called, percent
from prunus.studies.results import CellResult, Results

UNIT = "\u00a0%"  # a space that no line breaks at

#: Two runs of one method, by what differs.
PAIRS = {
    "order": "two data orders of the same init",
    "init": "two inits in the same order",
    "scores": "two draws of the first scores",
    "all": "two runs that differ in all of this",
}

#: Mean deviations from chance below which nothing is said of a difference.
CHANCE = 3


def reading(_view: View, results: Results) -> list[str]:
    """For each network a paragraph on what masks share, and one on the tickets."""
    said = []
    for network in networks(results):
        cells = [cell for cell in results.cells if cell.network == network]
        overlaps = _overlaps(cells)
        said.append(f"{called(network)}: " + (overlaps or "too little is finished yet to compare anything."))
        said += filter(None, [_tickets(called(network), cells)])
    return said


def _overlaps(cells: Sequence[CellResult]) -> str:
    """What masks share at the density of the tickets, or else at the least that was compared."""
    # where a mask is empty, or all are full, there is nothing to compare
    pairs = [c for c in cells if "z" in c.measures and isfinite(c.measures["z"]) and isfinite(c.measures["common"])]
    if not pairs:
        return ""
    compared = {cell.measures["density"] for cell in pairs}
    trained = compared & {cell.measures["density"] for cell in cells if cell.arm == "ticket"}
    density = min(trained or compared)
    by_arm = _by_arm(pairs, density)
    parts, remarks = [], []
    for method, words in FINDERS.items():
        found = {relation: by_arm[arm] for relation in RELATIONS if (arm := within(method, relation)) in by_arm}
        each = [f"{_share(same)} between {PAIRS[relation]}" for relation, same in found.items()]
        parts += [f"by {words}, {_listed(each)}"] if each else []
        remarks += filter(None, [_by_first_scores(method, pairs, compared)])
    for arm, (one, other) in BETWEEN.items():
        if arm in by_arm:
            parts.append(f"by {FINDERS[one]} and {FINDERS[other]} over the same weights, {_share(by_arm[arm])}")
    kept = f"{percent(100 * density)}{UNIT}"
    return " ".join([f"two masks that keep {kept} of the weights have in common, {'; '.join(parts)}.", *remarks])


def _share(pairs: Sequence[CellResult]) -> str:
    """The mean common fraction beside chance."""
    common, chance, z = (_mean(pairs, name) for name in ("common", "chance", "z"))
    if abs(z) < CHANCE:
        return f"{percent(100 * common)}{UNIT} (as by chance)"
    side = "above" if z > 0 else "below"
    where = f"chance {percent(100 * chance)}{UNIT}, {abs(z):.0f} deviations {side} it"
    return f"{percent(100 * common)}{UNIT} ({where})"


def _by_first_scores(method: str, pairs: Sequence[CellResult], densities: Iterable[float]) -> str:
    """Says at which density two inits share most of what only the same first scores have put there, if they do."""
    most, said = 0.0, ""
    for density in densities:
        by_arm = _by_arm(pairs, density)
        init, scores, every = (by_arm.get(within(method, relation)) for relation in ("init", "scores", "all"))
        # without other scores, what differs in all has the same ones
        if not (init and scores and every) or _mean(init, "z") < CHANCE or abs(_mean(every, "z")) >= CHANCE:
            continue
        if (times := _mean(init, "common") / _mean(init, "chance")) > most:
            most = times
            said = (
                f"At {percent(100 * density)}{UNIT}, two inits share {_share(init)} by {FINDERS[method]} where their "
                f"first scores are the same, and {_share(every)} where these differ too."
            )
    return said


def _by_arm(pairs: Sequence[CellResult], density: float) -> dict[str, list[CellResult]]:
    found: dict[str, list[CellResult]] = defaultdict(list)
    for cell in pairs:
        if cell.measures["density"] == density:
            found[cell.arm].append(cell)
    return dict(found)


def _mean(pairs: Sequence[CellResult], name: str) -> float:
    return fmean(cell.measures[name] for cell in pairs)


def _tickets(name: str, cells: Sequence[CellResult]) -> str:
    """The winning ticket's place among random ones."""
    won = {c.trial: a for c in cells if c.arm == "ticket" and c.measures["init"] == 0 if (a := accuracy(c)) is not None}
    drawn: dict[int, list[float]] = defaultdict(list)
    for cell in cells:
        if cell.arm == "random" and cell.trial in won and (reached := accuracy(cell)) is not None:
            drawn[cell.trial].append(reached)
    both = [(won[trial], values) for trial, values in drawn.items()]
    if not both:
        return ""
    return " ".join(filter(None, [_place(name, both), _above(both), _inits(cells), _untrained(cells)]))


def _place(name: str, both: Sequence[tuple[float, list[float]]]) -> str:
    beaten = sum(sum(value < ticket for value in values) for ticket, values in both)
    count = sum(len(values) for _, values in both)
    chances = [(1 + sum(value >= ticket for value in values)) / (1 + len(values)) for ticket, values in both]
    at_most = f"p = {chances[0]:.2g}" if len(both) == 1 else f"p at most {max(chances):.2g} in each trial"
    own = "" if len(both) == 1 else " of its trial"
    return (
        f"The winning ticket of {name}, trained from its initial weights, ends above {beaten} of {count} random tickets"
        f"{own} with the same layer densities and weights (one-sided {at_most})."
    )


def _above(both: Sequence[tuple[float, list[float]]]) -> str:
    """How far the ticket lies from the random ones, in their own deviations; nothing where they do not differ."""
    spread = [(t, fmean(v), stdev(v)) for t, v in both if len(v) > 1 and stdev(v)]
    if not spread:
        return ""
    ticket, mean, deviation = (fmean(column) for column in zip(*spread, strict=True))
    away = fmean((t - m) / s for t, m, s in spread)
    side = "above" if away >= 0 else "below"
    mean_of = "" if len(spread) == 1 else ", means over trials"
    return (
        f"It ends at {ticket:.2f}{UNIT}, they at {mean:.2f}{UNIT} with a deviation of {deviation:.2f}: "
        f"{abs(away):.1f} deviations {side} their mean{mean_of}."
    )


def _inits(cells: Sequence[CellResult]) -> str:
    tickets, random, dense = (_reached(cells, arm) for arm in ("ticket", "random", "dense"))
    if len(tickets) < 2 or not random:
        return ""
    level = f"; the dense network ends at {fmean(dense):.2f}{UNIT}" if dense else ""
    return (
        f"The tickets of all {len(tickets)} inits end at {min(tickets):.2f} to {max(tickets):.2f}{UNIT}, "
        f"random tickets at {min(random):.2f} to {max(random):.2f}{UNIT}{level}."
    )


def _untrained(cells: Sequence[CellResult]) -> str:
    density = next(cell.measures["density"] for cell in cells if cell.arm == "ticket")
    same = [cell for cell in cells if cell.measures.get("density") == density]
    parts = [
        f"the masks of {words} reach {fmean(found):.2f}{UNIT}"
        for method, words in FINDERS.items()
        if method != MAGNITUDE and (found := _reached(same, method))
    ]
    return f"With no weight trained, {_listed(parts)}." if parts else ""


def _reached(cells: Iterable[CellResult], arm: str) -> list[float]:
    return [a for cell in cells if cell.arm == arm and (a := accuracy(cell)) is not None]


def _listed(parts: Sequence[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
