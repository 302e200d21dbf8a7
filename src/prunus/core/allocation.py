"""Allocations: how a number of weights to keep is shared among the layers.

An allocation is a pure function `f(scores, keep) -> counts`: a tensor of scores for each layer and the number kept
in all go in, the number kept in each layer comes out. The counts add up to `keep`, and each is between 0 and the
layer's size. Fractions are rounded by largest remainder, ties by position. Only `global_` and `lamp` look at the
scores; the others look at shapes.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import prod

import numpy as np
import torch
from torch import Tensor

from prunus.core.errors import Invalid
from prunus.core.largest import largest
from prunus.core.registry import Table

Scores = Mapping[str, Tensor]
Counts = dict[str, int]
Allocation = Callable[[Scores, int], Mapping[str, int]]


def global_(scores: Scores, keep: int) -> Counts:
    """As many in each layer as it has among the `keep` largest scores of all layers together."""
    chosen = largest(list(scores.values()), keep)
    return {name: int(mask.count_nonzero()) for name, mask in zip(scores, chosen, strict=True)}


def uniform(scores: Scores, keep: int) -> Counts:
    """The same density in each layer."""
    sizes = _sizes(scores)
    return share(sizes, sizes, keep)


def uniform_first_last(scores: Scores, keep: int) -> Counts:
    """The first and the last layer dense, the same density in the others; the total stays `keep`.

    Raises:
        Invalid: if the first and the last layer alone have more than `keep` weights.
    """
    sizes = _sizes(scores)
    dense = {name: sizes[name] for name in {*list(sizes)[:1], *list(sizes)[-1:]}}
    rest = {name: size for name, size in sizes.items() if name not in dense}
    left = keep - sum(dense.values())
    if not 0 <= left <= sum(rest.values()):
        raise Invalid(
            f"scope 'uniform-first-last' cannot keep {keep:,} of {sum(sizes.values()):,} weights: "
            f"the first and the last layer have {sum(dense.values()):,}"
        )
    shared = dense | share(rest, rest, left)
    return {name: shared[name] for name in sizes}


def er(scores: Scores, keep: int) -> Counts:
    """Erdős–Rényi: density ∝ (n_in + n_out) / (n_in · n_out), for units or channels.

    Layers that this would make more than dense are dense, and the others share what is left.
    Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity inspired by
    network science", 2018, Nature Communications.
    """
    return _proportional(scores, keep, lambda shape: sum(shape[:2]) * prod(shape[2:]))


def erk(scores: Scores, keep: int) -> Counts:
    """Erdős–Rényi kernel: density ∝ (sum of the weight's dimensions) / (their product).

    Layers that this would make more than dense are dense, and the others share what is left.
    Evci et al., "Rigging the lottery: making all tickets winners", 2020, ICML.
    """
    return _proportional(scores, keep, sum)


def lamp(scores: Scores, keep: int) -> Counts:
    """As many in each layer as it has among the `keep` largest LAMP scores of all layers together.

    The LAMP score of a weight is its square over the sum of the squares of the weights of its layer that are not
    smaller: θ² / Σ θ'², so the largest weight of a layer has 1. The absolute values of the scores given are taken
    as the magnitudes |θ|; in a layer with infinite ones only these count. A layer of zeros has zeros.
    Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", 2021, ICLR.
    """
    chosen = largest([lamp_scores(tensor) for tensor in scores.values()], keep)
    return {name: int(mask.count_nonzero()) for name, mask in zip(scores, chosen, strict=True)}


def lamp_scores(tensor: Tensor) -> Tensor:
    """The LAMP scores of one layer, float64 of shape (size,), from the smallest to the largest (see `lamp`)."""
    magnitudes = tensor.detach().reshape(-1).double().abs()
    if len(magnitudes) == 0:
        return magnitudes
    if magnitudes.isinf().any():
        magnitudes = magnitudes.isinf().double()
    on_cpu = magnitudes.device.type == "cpu"  # where NumPy sorts twenty times as fast
    ascending = torch.from_numpy(np.sort(magnitudes.numpy())) if on_cpu else magnitudes.sort().values
    squares = (ascending / ascending[-1]).square()  # no layer's scale matters, and none overflows
    sums = squares.flip(0).cumsum(0).flip(0)
    return (squares / sums).nan_to_num(0.0)


def share(weights: Mapping[str, int], room: Mapping[str, int], keep: int) -> Counts:
    """`keep` shared in proportion to `weights`, at most `room` each, in whole numbers.

    What does not fit into one is shared among the others, again in proportion; where only weights of 0 are left,
    in proportion to their room. Exact rational numbers; largest remainder, ties by position.

    Raises:
        ValueError: if there is not room for `keep`.
    """
    if not 0 <= keep <= sum(room.values()):
        raise ValueError(f"keep is {keep} of {sum(room.values())}")
    targets = {name: Fraction(0) for name in weights}
    free = {name: weight for name, weight in weights.items() if room[name]}
    left = keep
    while left and free:
        if not any(free.values()):
            free = {name: room[name] for name in free}
        scale = Fraction(left, sum(free.values()))
        full = [name for name, weight in free.items() if scale * weight > room[name]]
        if not full:
            targets |= {name: scale * weight for name, weight in free.items()}
            break
        for name in full:
            targets[name] = Fraction(room[name])
            left -= room[name]
            del free[name]
    counts = {name: int(target) for name, target in targets.items()}
    by_remainder = sorted(counts, key=lambda name: counts[name] - targets[name])
    for name in by_remainder[: keep - sum(counts.values())]:
        counts[name] += 1
    return counts


def _proportional(scores: Scores, keep: int, factor: Callable[[tuple[int, ...]], int]) -> Counts:
    # density ∝ factor / size, so the count is ∝ factor
    factors = {name: factor(tuple(tensor.shape) or (1,)) for name, tensor in scores.items()}
    return share(factors, _sizes(scores), keep)


def _sizes(scores: Scores) -> dict[str, int]:
    return {name: tensor.numel() for name, tensor in scores.items()}


#: The allocations by name.
ALLOCATIONS: Table[Allocation] = Table(
    "scope",
    {
        "global": global_,
        "layerwise": uniform,
        "uniform": uniform,
        "uniform-first-last": uniform_first_last,
        "er": er,
        "erk": erk,
        "lamp": lamp,
    },
    group="prunus.scopes",
)


def allot(scope: str | Allocation, scores: Scores, keep: int) -> Counts:
    """The counts of the allocation called `scope`, or of a function of the user's own, checked.

    Raises:
        Invalid: if the scope is unknown, or its counts do not fit the layers or do not add up to `keep`.
    """
    allocate = scope if callable(scope) else ALLOCATIONS.look_up(scope, "scope")
    counts = allocate(scores, keep)
    called = f"scope {scope if isinstance(scope, str) else getattr(scope, '__name__', scope)!r}"
    for name in sorted(scores.keys() ^ counts.keys()):
        raise Invalid(f"{called}: only one of scores and counts has {name!r}")
    for name, size in _sizes(scores).items():
        count = counts[name]
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= size:
            raise Invalid(f"{called}: the count of {name} is {count}; allowed: a whole number from 0 to {size}")
    if sum(counts.values()) != keep:
        raise Invalid(f"{called}: its counts add up to {sum(counts.values())}, not to {keep}")
    return {name: counts[name] for name in scores}
