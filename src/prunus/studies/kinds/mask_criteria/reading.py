"""The result of a mask-criteria study in plain words: sentences made from the numbers, each only where it holds."""

from statistics import fmean

from prunus.studies.kinds.accuracy import accuracy
from prunus.studies.kinds.mask_criteria.metrics import BY_CRITERION, BY_ONE, BY_ZERO, CRITERIA, ONE, ZERO, untrained
from prunus.studies.report.curves import curves, networks
from prunus.studies.report.view import Curve, View
from prunus.studies.report.words import called, percent
from prunus.studies.results import CellResult, Results

UNIT = "\u00a0%"  # a space that no line breaks at


def reading(view: View, results: Results) -> list[str]:
    """A paragraph for each network."""
    return [_paragraph(view, results, network) for network in networks(results)]


def _paragraph(view: View, results: Results, network: str) -> str:
    cells = [cell for cell in results.cells if cell.network == network]
    by_criterion, by_one, by_zero = (curves(view, results, network, m) for m in (BY_CRITERION, BY_ONE, BY_ZERO))
    dense = [a for cell in cells if cell.arm == "dense" and (a := accuracy(cell)) is not None]
    tried = {cell.measures.get("criterion") for cell in cells}
    recipe = next((curve for curve in by_criterion if curve.arm in tried), None)  # what actions are tried on
    sentences = [
        f"The dense network ends at {_shown(fmean(dense))}." if dense else "",
        _criteria(by_criterion),
        _signs(by_one, recipe),
        _zeros(by_zero, recipe),
        _without_training(cells),
    ]
    trials = len({cell.trial for cell in cells})
    counted = f"The numbers are means over {trials} trials." if trials > 1 else "This is one trial, without a spread."
    return " ".join([f"{called(network)}:", *(s for s in sentences if s), counted])


def _criteria(measured: list[Curve]) -> str:
    """Which criteria end above random masks, where those are sparsest."""
    chance = next((curve for curve in measured if curve.arm == "random"), None)
    if chance is None:
        return ""
    last = chance.points[-1]
    others = [(c.arm, p.mean) for c in measured if c.arm in CRITERIA and c is not chance and (p := c.at(last.round))]
    parts = []
    for word, there in (("above", [o for o in others if o[1] > last.mean]), ("below", _below(others, last.mean))):
        if there:
            parts.append(f"{word} them {_listed([(CRITERIA[arm].words, mean) for arm, mean in there])}")
    if not parts:
        return ""
    return f"With {_weights(last.x)} of the weights random masks end at {_shown(last.mean)}, {'; '.join(parts)}."


def _below(others: list[tuple[str, float]], level: float) -> list[tuple[str, float]]:
    return [other for other in others if other[1] < level]


def _signs(measured: list[Curve], recipe: Curve | None) -> str:
    """Whether actions that keep the initial signs end above the same actions without."""
    by_arm = {curve.arm: curve for curve in measured}
    pairs = [(by_arm[a], by_arm[f"signed-{a}"]) for a in by_arm if f"signed-{a}" in by_arm]
    ends = [(a, p, q) for a, b in pairs if (p := a.points[-1]) and (q := b.at(p.round))]
    sparsest = max((p.round for _, p, _ in ends), default=0)
    ends = [(a.arm, p, q) for a, p, q in ends if p.round == sparsest]
    if not ends:
        return ""
    better = sum(q.mean > p.mean for _, p, q in ends)
    verdict = "help" if better == len(ends) else "do not help" if not better else "help some starts and not others"
    each = [f"“{_name(arm)}” from {_shown(p.mean)} to {_shown(q.mean)}" for arm, p, q in ends]
    rewound = recipe.at(sparsest) if recipe else None
    beside = f"; rewound weights end at {_shown(rewound.mean)}" if rewound else ""
    return (
        f"The initial signs {verdict}: with {_weights(ends[0][1].x)} of the weights they take {_joined(each)}{beside}."
    )


def _zeros(measured: list[Curve], recipe: Curve | None) -> str:
    """What pruned weights at zero end at, and what others do."""
    if not measured:
        return ""
    last = max((curve.points[-1] for curve in measured), key=lambda p: p.round)
    there = [f"{_shown(p.mean)} ({_name(curve.arm)})" for curve in measured if (p := curve.at(last.round))]
    zeroed = recipe.at(last.round) if recipe else None
    if not zeroed:
        return ""
    said = f"With {_weights(last.x)} of the weights and pruned ones at zero the network ends at {_shown(zeroed.mean)}"
    return f"{said}; with other values of pruned weights at {_joined(there)}."


def _without_training(cells: list[CellResult]) -> str:
    """The best mask without training on either weights: chosen on validation data in each trial, told of test data."""
    said = []
    for weights, words in (("constant", "the signed constant"), ("initial", "the initial weights")):
        value, test = untrained(weights, "validation"), untrained(weights)
        there = [cell for cell in cells if cell.arm in CRITERIA and value(cell) is not None]
        trials = sorted({cell.trial for cell in there})
        if not there:
            continue
        best = [max((c for c in there if c.trial == trial), key=lambda c: value(c) or 0.0) for trial in trials]
        reached = fmean(test(cell) or 0.0 for cell in best)
        chosen = _joined(list(dict.fromkeys(CRITERIA[cell.arm].words for cell in best)))
        kept = sorted({percent(100 * cell.density) for cell in best}, key=float)
        some = kept[0] if len(kept) == 1 else f"{kept[0]} to {kept[-1]}"
        said.append(f"on {words} {_shown(reached)} ({chosen}, {some}{UNIT} of the weights)")
    if not said:
        return ""
    return f"Without any training, the masks that are best on the validation data reach {_joined(said)} test accuracy."


def _name(arm: str) -> str:
    """The words of an action, without which weights it is about."""
    return {**ONE, **ZERO}[arm].words.partition(": ")[2] or arm


def _listed(there: list[tuple[str, float]]) -> str:
    return _joined([f"{words} ({_shown(mean)})" for words, mean in there])


def _joined(parts: list[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def _shown(number: float) -> str:
    return f"{BY_CRITERION.shown(number)}{UNIT}"


def _weights(x: float) -> str:
    return f"{percent(x)}{UNIT}"
