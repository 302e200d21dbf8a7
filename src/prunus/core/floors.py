"""Floors: how many weights each parameter keeps at least, whatever their scores."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor

from prunus.core.allocation import Counts, share
from prunus.core.errors import Invalid, nearest
from prunus.core.largest import largest

#: A number of weights (an integer), or a density (a float in (0, 1]); of all parameters, or by glob pattern.
Protect = int | float | Mapping[str, int | float]


def floors_of(protect: Protect | None, sizes: Mapping[str, int], keep: int) -> Counts:
    """The floor of each parameter that has one.

    Args:
        protect: the floor of each parameter, or a mapping from glob patterns on names to floors; where several
            match, the last one counts. A density keeps at least one weight.
        sizes: how many weights each parameter has.
        keep: how many are kept in all.

    Raises:
        Invalid: if a pattern matches nothing, a floor is out of range or more than its parameter has, or the floors
            together are more than `keep`.
    """
    if protect is None:
        return {}
    rows = protect if isinstance(protect, Mapping) else {"*": protect}
    floors: Counts = {}
    for pattern, floor in rows.items():
        matched = [name for name in sizes if fnmatchcase(name, pattern)]
        if not matched:
            raise Invalid(f"protect has {pattern!r}, which matches no pruned parameter; {nearest(pattern, sizes)}")
        floors |= {name: _floor(name, floor, sizes[name]) for name in matched}
    if (least := sum(floors.values())) > keep:
        raise Invalid(
            f"protect keeps at least {least:,} weights, and only {keep:,} of {sum(sizes.values()):,} are kept"
        )
    return {name: floors[name] for name in sizes if name in floors}


def largest_above(
    tensors: Mapping[str, Tensor], keep: int, floors: Counts, among: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Like `largest`, but each parameter first gets its floor from its own largest entries.

    A parameter with fewer candidates than its floor keeps them all.
    """
    if not floors:
        return largest(list(tensors.values()), keep, among)
    masks = [None] * len(tensors) if among is None else among
    first: list[Tensor] = []
    rest: list[Tensor] = []
    for (name, tensor), mask in zip(tensors.items(), masks, strict=True):
        room = tensor.numel() if mask is None else int(mask.count_nonzero())
        own = largest([tensor], min(floors.get(name, 0), room), None if mask is None else [mask])[0]
        first.append(own)
        rest.append(~own if mask is None else mask & ~own)
    left = keep - sum(int(own.count_nonzero()) for own in first)
    for own, more in zip(first, largest(list(tensors.values()), left, rest), strict=True):
        own |= more
    return first


def raised(counts: Counts, floors: Counts, room: Mapping[str, int], keep: int) -> Counts:
    """The counts with each at its floor at least (or at its room); the others give in proportion to what they have."""
    least = {name: min(floors.get(name, 0), room[name]) for name in counts}
    while any(count < least[name] for name, count in counts.items()):
        fixed = {name: least[name] for name in counts if counts[name] <= least[name]}
        above = {name: counts[name] for name in counts if name not in fixed}
        shared = share(above, {name: room[name] for name in above}, keep - sum(fixed.values()))
        counts = {name: fixed.get(name, shared.get(name, 0)) for name in counts}
    return counts


def _floor(name: str, floor: int | float, size: int) -> int:
    if isinstance(floor, bool) or not isinstance(floor, int | float) or floor < 0:
        raise Invalid(f"protect is {floor!r} for {name}; allowed: a whole number, or a density in (0, 1]")
    if isinstance(floor, float):
        if not 0 < floor <= 1:
            raise Invalid(f"protect is {floor!r} for {name}; allowed: a whole number, or a density in (0, 1]")
        return max(1, round(floor * size))
    if floor > size:
        raise Invalid(f"protect is {floor:,} for {name}, which has {size:,} weights")
    return floor
