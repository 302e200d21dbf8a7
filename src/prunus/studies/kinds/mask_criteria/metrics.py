"""What a mask-criteria study compares, and what it measures."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from prunus.studies.kinds.accuracy import accuracy, dense_level
from prunus.studies.report.style import PALETTE, Arm
from prunus.studies.report.view import NAME, Curve, Line, Metric
from prunus.studies.results import CellResult
from prunus.tickets import MASK_CRITERIA, ONE_ACTIONS, ZERO_ACTIONS

_CRITERIA = {
    "large-final": "large final",
    "small-final": "small final",
    "magnitude-increase": "magnitude increase",
    "movement": "movement",
    "large-final-same-sign": "large final, same sign",
    "random": "random",
    "large-init": "large initial",
    "large-init-large-final": "large initial and final",
    "small-init": "small initial",
    "small-init-small-final": "small initial and final",
    "large-final-diff-sign": "large final, other sign",
    "magnitude-increase-same-sign": "magnitude increase, same sign",
    "magnitude-increase-diff-sign": "magnitude increase, other sign",
}
_ONE = {
    "reinit": "kept: drawn anew",
    "permute": "kept: permuted in the layer",
    "reshuffle": "kept: reshuffled",
    "constant": "kept: ± a constant",
    "signed-reinit": "kept: drawn anew, signs kept",
    "signed-permute": "kept: permuted, signs kept",
    "signed-reshuffle": "kept: reshuffled, signs kept",
    "signed-constant": "kept: ± a constant, signs kept",
}
_ZERO = {
    "freeze": "pruned: frozen",
    "variant-1": "pruned: variant 1",
    "variant-2": "pruned: variant 2",
    "reversed": "pruned: variant 1, reversed",
    "random-zero": "pruned: as many zeros, random",
}


def _arms(words: Mapping[str, str], table: Iterable[str], without: str, colour: int, shift: int) -> dict[str, Arm]:
    """Arms in the colours of the palette from `colour` on, their markers so many further: no look comes twice."""
    more = {name: name for name in table if name not in words and name != without and NAME.fullmatch(name)}
    made = {}
    for i, (name, said) in enumerate({**words, **more}.items(), colour):
        signed = name.startswith("signed-")
        i -= 4 * signed  # the colour of the same action without signs
        marker = PALETTE[(i + i // len(PALETTE) + shift + signed) % len(PALETTE)]
        look = replace(PALETTE[i % len(PALETTE)], marker=marker.marker, shape=marker.shape)
        made[name] = Arm(said, look)
    return made


#: What is compared in the panels of criteria, of mask-1 and of mask-0 actions; rows of other packages come last.
CRITERIA = _arms(_CRITERIA, MASK_CRITERIA, "", 0, 0)
ONE = _arms(_ONE, ONE_ACTIONS, "rewind", 0, 3)
ZERO = _arms(_ZERO, ZERO_ACTIONS, "zero", 0, 5)


def of(arms: Iterable[str], value: Callable[[CellResult], float | None]) -> Callable[[CellResult], float | None]:
    """The value, of cells of some arms alone."""
    there = frozenset(arms)
    return lambda cell: value(cell) if cell.arm in there else None


def untrained(weights: str, split: str = "test") -> Callable[[CellResult], float | None]:
    """Accuracy of a mask on the untrained weights "initial" or "constant", in percent."""

    def value(cell: CellResult) -> float | None:
        found = cell.measures.get(f"{weights}_{split}")
        return None if found is None else 100 * found

    return value


def recipe_level(cells: Sequence[CellResult], curves: Sequence[Curve], /) -> Iterable[Line]:
    """The dense network, and what the actions are tried on: the same masks with rewound and zeroed weights."""
    yield from dense_level(cells, curves)
    criteria = {cell.measures.get("criterion") for cell in cells}
    found: dict[int, list[tuple[float, float]]] = {}
    for cell in cells:
        if cell.arm in criteria and (a := accuracy(cell)) is not None:
            found.setdefault(cell.round, []).append((100 * cell.density, a))
    if found:
        places = sorted(found.items())
        yield Line("recipe", points=tuple((fmean(x for x, _ in at), fmean(y for _, y in at)) for _, at in places))


BY_CRITERION = Metric(
    "test_accuracy",
    "Test accuracy by criterion",
    "%",
    of((*CRITERIA, "dense"), accuracy),
    short="by criterion, %",
    lines=dense_level,
)
INITIAL = Metric(
    "untrained_initial_test",
    "Untrained, initial weights",
    "%",
    of((*CRITERIA, "dense"), untrained("initial")),
    short="untrained, %",
    share="untrained",
    lines=dense_level,
)
CONSTANT = Metric(
    "untrained_constant_test",
    "Untrained, signed constant",
    "%",
    of((*CRITERIA, "dense"), untrained("constant")),
    short="signed constant, %",
    share="untrained",
    lines=dense_level,
)
BY_ONE = Metric(
    "test_accuracy_by_one_action",
    "Test accuracy by mask-1 action",
    "%",
    of(ONE, accuracy),
    short="by mask-1 action, %",
    share="actions",
    lines=recipe_level,
    optional=True,
)
BY_ZERO = Metric(
    "test_accuracy_by_zero_action",
    "Test accuracy by mask-0 action",
    "%",
    of(ZERO, accuracy),
    short="by mask-0 action, %",
    share="actions",
    lines=recipe_level,
    optional=True,
)
