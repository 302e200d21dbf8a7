"""Exact selection: from scores and a density, or counts, to masks.

Selection is pure, keeps the number asked for to the last weight, and breaks ties by position: the order of the
parameters, then the row-major order in each. Infinite scores are legal, NaN is not.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from prunus.core.allocation import Allocation, allot, global_, share
from prunus.core.errors import Invalid, check_density, nearest
from prunus.core.floors import Protect, floors_of, largest_above, raised
from prunus.core.largest import COMPARABLE, FLOATS, INTEGERS, largest
from prunus.core.masks import Masks


def select(
    scores: Mapping[str, Tensor],
    density: float,
    scope: str | Allocation = "global",
    within: Masks | None = None,
    protect: Protect | None = None,
) -> Masks:
    """Masks that keep the `round(density × n)` largest of the n scores.

    Args:
        scores: for each parameter a tensor of its shape, of floats or integers; larger means keep.
        density: fraction kept of all n scores (also where `within` leaves fewer candidates), in (0, 1].
        scope: how the density is shared among the parameters: "global" (the largest of all together),
            "layerwise" or "uniform" (the same density in each), "uniform-first-last", "er", "erk", "lamp", or
            a function like those of `prunus.core.allocation`.
        within: only weights that these masks keep are candidates. Under a scope other than "global", what is
            allotted to a parameter beyond its candidates goes to the others in proportion to theirs.
        protect: how many weights each parameter keeps at least, or which fraction of its own; for some parameters
            only, by glob patterns: `{"*shortcut*": 0.05}`. Default: nothing.

    Raises:
        Invalid: if a score is NaN, the density is out of range or more than `within` keeps, a name or shape
            differs, the scope is unknown, or more is protected than kept.
    """
    sizes = {name: tensor.numel() for name, tensor in scores.items()}
    keep = round(check_density(density) * sum(sizes.values()))
    within = checked(scores, within)
    room = _room(scores, within)
    check_count(f"the number kept at density {density}", keep, sum(room.values()))
    floors = floors_of(protect, sizes, keep)
    if scope in ("global", global_):
        return _select_jointly(scores, keep, within, floors)
    counts = allot(scope, scores if within is None else _candidates(scores, within), keep)
    return _select_apart(scores, raised(share(counts, room, keep), floors, room, keep), within)


def select_count(scores: Mapping[str, Tensor], keep: int, within: Masks | None = None) -> Masks:
    """Masks that keep the `keep` largest scores of all parameters together.

    Args:
        scores: as for `select`.
        keep: how many, from 0 to the number of candidates.
        within: as for `select`.

    Raises:
        Invalid: if a score is NaN, there are fewer candidates than `keep`, or a name or shape differs.
    """
    within = checked(scores, within)
    check_count("keep", keep, sum(_room(scores, within).values()))
    return _select_jointly(scores, keep, within)


def select_counts(scores: Mapping[str, Tensor], counts: Mapping[str, int], within: Masks | None = None) -> Masks:
    """Masks that keep, in each parameter, the given number of largest scores.

    Args:
        scores: as for `select`.
        counts: for each parameter, how many.
        within: as for `select`.

    Raises:
        Invalid: if a score is NaN, a parameter has fewer candidates than its count, or a name or shape differs.
    """
    within = checked(scores, within)
    check_names(scores, counts)
    for name, room in _room(scores, within).items():
        check_count(f"the count of {name}", counts[name], room)
    return _select_apart(scores, counts, within)


def _select_jointly(
    scores: Mapping[str, Tensor], keep: int, within: Masks | None, floors: Mapping[str, int] | None = None
) -> Masks:
    among = None if within is None else aligned(scores, within)
    chosen = largest_above(scores, keep, dict(floors or {}), among)
    return Masks._made(dict(zip(scores, chosen, strict=True)))


def _select_apart(scores: Mapping[str, Tensor], counts: Mapping[str, int], within: Masks | None) -> Masks:
    among = [None] * len(scores) if within is None else [[mask] for mask in aligned(scores, within)]
    rows = zip(scores.items(), among, strict=True)
    return Masks._made({name: largest([tensor], counts[name], mask)[0] for (name, tensor), mask in rows})


def _candidates(scores: Mapping[str, Tensor], within: Masks) -> dict[str, Tensor]:
    """The scores, with 0 where there is no candidate: where magnitudes are summed, it adds nothing."""
    masks = aligned(scores, within)
    return {n: t.detach().masked_fill(~mask, 0) for (n, t), mask in zip(scores.items(), masks, strict=True)}


def _room(scores: Mapping[str, Tensor], within: Masks | None) -> dict[str, int]:
    if within is None:
        return {name: tensor.numel() for name, tensor in scores.items()}
    kept = {layer.name: layer.kept for layer in within.layers}
    return {name: kept[name] for name in scores}


def aligned(scores: Mapping[str, Tensor], within: Masks) -> list[Tensor]:
    """The masks in the order of the scores, each on their device."""
    return [within[name].to(tensor.device) for name, tensor in scores.items()]


def checked(scores: Mapping[str, Tensor], within: Masks | None) -> Masks | None:
    """`within`, or None where it leaves nothing out.

    Raises:
        Invalid: if scores are of a type that is not compared, a score is NaN, or a name or shape differs.
    """
    for name, tensor in scores.items():
        if tensor.dtype not in (*FLOATS, *INTEGERS):
            raise Invalid(f"the scores of {name} are {tensor.dtype}; allowed: {COMPARABLE}")
        # the largest entry is NaN if any is
        if tensor.is_floating_point() and tensor.numel() and torch.isnan(tensor.detach().amax()):
            raise Invalid(f"the scores of {name} hold NaN; allowed: real numbers and ±inf")
    if within is None:
        return None
    for name in sorted(scores.keys() ^ within.keys()):
        there, other = ("the scores", within) if name in scores else ("within", scores)
        raise Invalid(f"{name!r} is only in {there}; {nearest(name, other)}")
    for name, tensor in scores.items():
        if tensor.shape != within[name].shape:
            raise Invalid(f"{name}: the scores are {tuple(tensor.shape)}, within is {tuple(within[name].shape)}")
    return None if within.kept == within.total else within


def check_names(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> None:
    """Refuse counts of other parameters than those that have scores."""
    for name in sorted(scores.keys() ^ counts.keys()):
        raise Invalid(f"only one of scores and counts has {name!r}")


def check_count(what: str, count: int, room: int) -> None:
    """Refuse a count that is no whole number of candidates."""
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= room:
        raise Invalid(f"{what} is {count}; allowed: a whole number from 0 to {room}, the number of candidates")
