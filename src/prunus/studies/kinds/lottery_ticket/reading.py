"""The result of a lottery-ticket study in plain words: sentences made from the numbers, each only where it holds."""

from prunus.studies.kinds.lottery_ticket.metrics import ARMS, AT_END, AT_STOP, STOP, dense, test_accuracy
from prunus.studies.report.curves import curves, networks
from prunus.studies.report.view import Curve, Point, View
from prunus.studies.report.words import called, percent, trials
from prunus.studies.results import CellResult, Results

UNIT = "\u00a0%"  # a space that no line breaks at


def reading(view: View, results: Results) -> list[str]:
    """A paragraph for each network."""
    return [_paragraph(view, results, network) for network in networks(results)]


def _paragraph(view: View, results: Results, network: str) -> str:
    stop, at_stop, at_end = (curves(view, results, network, metric) for metric in (STOP, AT_STOP, AT_END))
    sentences = [
        _at_end(called(network), at_end),
        _winning(stop, at_stop),
        _against_controls(at_end, [c for c in results.cells if c.network == network]),
    ]
    points = [p for curve in (*stop, *at_end) for p in curve.points]
    several = max(p.n for p in points) > 1
    counted = f"The numbers are means over {trials(points)}." if several else "This is one trial, without a spread."
    said = [s for s in sentences if s] or [f"There is too little of {called(network)} yet to compare anything."]
    return " ".join([*said, counted])


def _at_end(name: str, at_end: list[Curve]) -> str:
    level = dense(at_end)
    if level is None:
        return ""
    spread = f" ({AT_END.shown(level.low)} to {AT_END.shown(level.high)})" if level.n > 1 else ""
    first = f"The dense {name} ends training at {_accuracy(level)} test accuracy{spread}."
    pruned = _pruned(at_end)
    equal = [p for p in pruned if p.mean >= level.mean]
    if equal:
        p = equal[-1]
        return f"{first} The sparsest ticket that ends no lower keeps {_weights(p)} and reaches {_accuracy(p)}."
    if pruned:
        p = max(pruned, key=lambda p: p.mean)
        return f"{first} No ticket ends as high; the best keeps {_weights(p)} and reaches {_accuracy(p)}."
    return first


def _winning(stop: list[Curve], at_stop: list[Curve]) -> str:
    """The definition of Frankle & Carbin (ICLR 2019): no later at early stop, and no less accurate there."""
    late, level = dense(stop), dense(at_stop)
    stops = {p.round: p for p in _pruned(stop)}
    reached = [p for p in _pruned(at_stop) if p.round in stops]
    if late is None or level is None or not reached:
        return ""
    winners = [p for p in reached if p.mean >= level.mean and stops[p.round].mean <= late.mean]
    if not winners:
        return "No ticket measured both reaches its early stop as soon as the dense network and is as accurate there."
    p = winners[-1]
    return (
        f"The sparsest winning ticket keeps {_weights(p)}: it reaches its early stop at iteration "
        f"{STOP.shown(stops[p.round].mean)} (dense: {STOP.shown(late.mean)}) with {_accuracy(p)} test accuracy "
        f"(dense: {_accuracy(level)})."
    )


def _against_controls(at_end: list[Curve], cells: list[CellResult]) -> str:
    tickets = next((c for c in at_end if c.arm == "ticket"), None)
    controls = [c for c in at_end if c.arm != "ticket"]
    shared = [p for p in _pruned(at_end) if any(c.at(p.round) for c in controls)]
    if tickets is None or not shared:
        return ""
    p = shared[-1]
    others = [(c.arm, q) for c in controls if (q := c.at(p.round))]
    *most, last = [f"{_accuracy(q)} ({ARMS[arm].words})" for arm, q in others]
    listed = f"{', '.join(most)} and {last}" if most else last
    ahead = _in_every_trial(cells, p.round)
    return f"With {_weights(p)} the ticket ends at {_accuracy(p)}, against {listed}{ahead}."


def _in_every_trial(cells: list[CellResult], pruned: int) -> str:
    """Says that the ticket ended above every control in every trial, if it did."""
    ended: dict[int, dict[str, float]] = {}
    for cell in cells:
        if cell.round == pruned and (accuracy := test_accuracy(cell.final)) is not None:
            ended.setdefault(cell.trial, {})[cell.arm] = accuracy
    arms = {arm for trial in ended.values() for arm in trial}
    whole = [trial for trial in ended.values() if trial.keys() == arms]
    ahead = all(trial["ticket"] > max(a for arm, a in trial.items() if arm != "ticket") for trial in whole)
    if len(whole) < 2 or len(whole) < len(ended) or not ahead:
        return ""
    return f"; the ticket is ahead in each of the {len(whole)} trials"


def _pruned(measured: list[Curve]) -> list[Point]:
    """The tickets of round 1 and later, from dense to sparse."""
    return [p for curve in measured if curve.arm == "ticket" for p in curve.points if p.round > 0]


def _accuracy(point: Point) -> str:
    return f"{AT_END.shown(point.mean)}{UNIT}"


def _weights(point: Point) -> str:
    return f"{percent(point.x)}{UNIT} of the weights"
