"""The largest entries of many tensors together: exactly so many, without joining or sorting the tensors.

The threshold is found by narrowing an open bracket (lo, hi) around it. Pivots are quantiles of a small random
sample of what is still inside; a pass or two that count the entries above and at a pivot either end the search or
move one end of the bracket. Two pivots, some standard deviations to either side of the rank wanted, usually leave
about a hundredth of the entries; once few are left they are gathered and partitioned. Each pivot leaves the
bracket, so any number of ties ends the search when they are met, and no layout of the scores is slow, since the
sample is random. (After Floyd and Rivest, "Expected time bounds for selection", 1975, CACM.)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus.core.errors import Invalid
from prunus.core.seeds import generator

#: So many entries are gathered and partitioned at once: where that becomes as cheap as the passes of a bracket.
FEW = 2**20
#: Entries drawn for the pivots: the bracket is then about one part in a hundred wide.
DRAWN = 2**15

#: Entries compared at once on the CPU: what is made of them is then still in the cache when it is counted.
PIECE = 2**18

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
COMPARABLE = "floats of 16 to 64 bits, and integers"


def largest(tensors: Sequence[Tensor], keep: int, among: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Bool tensors, True at the `keep` largest entries of all `tensors` together.

    Ties go by position: the order of the tensors, then the row-major order in each. Infinities are legal, NaN is
    not (and not looked for). Expected O(n); beyond the tensors and the result it needs a few temporaries of the
    size of the largest tensor.

    Args:
        tensors: any shapes, devices, and types of real numbers; different types are compared in the widest.
        keep: how many, from 0 to the number of candidates.
        among: for each tensor a bool tensor of its shape that is True at the candidates. Default: all.
    """
    dtype = widest({tensor.dtype for tensor in tensors})
    kept = [none_kept(tensor) for tensor in tensors]
    masks = [None] * len(tensors) if among is None else among
    parts = [part for row in zip(tensors, masks, kept, strict=True) for part in parts_of(*row, dtype)]
    size = sum(part.size for part in parts)
    if not 0 <= keep <= size:
        raise ValueError(f"keep is {keep} of {size}")
    if keep:
        keep_upto(_cut(parts, keep, size), parts)
    return kept


def parts_of(
    tensor: Tensor, mask: Tensor | None, kept: Tensor, dtype: torch.dtype, most: int | None = None
) -> Iterator["Part"]:
    """A tensor as parts in row-major order, which on the CPU stay in the cache while they are compared and counted.

    Elsewhere a part has up to `most` entries. A tensor that is not contiguous is one part.
    """
    size = PIECE if tensor.device.type == "cpu" else most
    if size is None or not tensor.is_contiguous() or tensor.numel() <= size:
        yield Part(torch.atleast_1d(tensor), mask if mask is None else torch.atleast_1d(mask), kept, dtype)
        return
    pieces = tensor.view(-1).split(size)
    masks = [None] * len(pieces) if mask is None else mask.reshape(-1).split(size)
    for values, among, to in zip(pieces, masks, kept.view(-1).split(size), strict=True):
        yield Part(values, among, to, dtype)


class Part:
    """Entries of one tensor, which of them are candidates, where to put the result, and the type to compare in."""

    def __init__(self, values: Tensor, candidates: Tensor | None, kept: Tensor, dtype: torch.dtype) -> None:
        self.values = values.detach()
        self.candidates = candidates
        self.kept = _native(kept)
        self.dtype = dtype
        self.as_it_is = _native(self.values) if values.dtype == dtype else None
        self.among = None if candidates is None else _native(candidates)
        self.size = values.numel() if self.among is None else _count(self.among)

    def where(self, test: Callable[[Any], Any]) -> Any:
        """A bool array: which entries are candidates and pass the test."""
        passed = test(self._widened())
        return passed if self.among is None else passed & self.among

    def ordered(self, test: Callable[[Any], Any] | None = None) -> Any:
        """The candidates (that pass the test) in row-major order, in the type to compare in; a view if it can be."""
        values = self._widened()
        if test is None:
            return values.reshape(-1) if self.among is None else values[self.among]
        return values[self.where(test)]

    def count(self, value: float) -> int:
        """How many candidates have the value."""
        return _count(self.where(lambda x: x == value))

    def take(self, positions: Any) -> np.ndarray:
        """The candidates at row-major positions, on the host."""
        source, among = (self.values, self.candidates) if self.as_it_is is None else (self.as_it_is, self.among)
        if isinstance(source, Tensor):
            positions = torch.as_tensor(positions, device=source.device)
        taken = source.take(positions)
        if among is not None:
            taken = taken[among.take(positions)]
        return taken.to(self.dtype).cpu().numpy() if isinstance(taken, Tensor) else taken

    def inside(self, lo: float | None, hi: float | None) -> np.ndarray:
        """The candidates between lo and hi, on the host."""
        if lo is None and hi is None and self.among is None:
            return self.values.reshape(-1).to(self.dtype).cpu().numpy()
        return self.take(_positions(self.where(lambda x: _inside(x, lo, hi))))

    def _widened(self) -> Any:
        return _native(self.values.to(self.dtype)) if self.as_it_is is None else self.as_it_is


@dataclass(frozen=True)
class Cut:
    """The smallest value kept, how many candidates have it, and how many of those are kept."""

    value: float
    ties: int
    wanted: int


def _cut(parts: list[Part], keep: int, size: int) -> Cut:
    lo = hi = None
    above = 0  # candidates at hi or above it; `size` more are inside the bracket
    draws = generator(0, "selection")
    while size > FEW:
        for pivot, upper in _pivots(_sample(parts, lo, hi, draws), (keep - above) / size):
            if not _inside(pivot, lo, hi):
                continue
            over = upto = -1  # one of the two counts is usually enough: too few up to the upper pivot, …
            if upper:
                upto = _total(parts, lambda x, p=pivot: x >= p)
            if not upper or keep <= upto:  # … enough over the lower one
                over = _total(parts, lambda x, p=pivot: x > p)
            if not upper and keep > over:
                upto = _total(parts, lambda x, p=pivot: x >= p)
            if keep <= over:
                lo, size = pivot, over - above
            elif keep <= upto:
                return Cut(pivot, upto - over, keep - over)
            else:
                hi, size, above = pivot, size + above - upto, upto
    rest = np.concatenate([part.inside(lo, hi) for part in parts])
    rank = size - (keep - above)
    rest.partition(rank)
    value = rest[rank].item()
    over = above + _count(rest > value)
    return Cut(value, _count(rest == value), keep - over)


def keep_upto(cut: Cut, parts: list[Part]) -> None:
    """Mark what lies above the cut, and the first of the candidates that are at it."""
    wanted = cut.wanted
    for part in parts:
        if cut.wanted == cut.ties:
            part.kept[...] = part.where(lambda x: x >= cut.value)
            continue
        part.kept[...] = part.where(lambda x: x > cut.value)
        if wanted:
            first = _positions(part.where(lambda x: x == cut.value))[:wanted]
            part.kept.reshape(-1)[first] = True  # a view: `kept` is contiguous
            wanted -= len(first)


def _pivots(sample: np.ndarray, fraction: float) -> Iterator[tuple[float, bool]]:
    """Two values of a sorted sample that are likely to enclose the one with `fraction` of the values above it."""
    if len(sample):
        position = fraction * len(sample)
        margin = 1 + 3 * sqrt(position * (1 - fraction))
        for from_top in (position - margin, position + margin):
            pivot = sample[-1 - min(max(int(from_top), 0), len(sample) - 1)]
            yield pivot.item(), from_top < position


def _sample(parts: list[Part], lo: float | None, hi: float | None, draws: torch.Generator) -> np.ndarray:
    """Those of DRAWN entries, drawn from all, that are candidates and inside the bracket, sorted."""
    ends = np.cumsum([part.values.numel() for part in parts])
    drawn = np.sort(torch.randint(int(ends[-1]), (DRAWN,), generator=draws).numpy())
    shares = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
    found = [
        part.take(share - (end - part.values.numel()))
        for part, share, end in zip(parts, shares, ends, strict=True)
        if len(share)
    ]
    values = np.concatenate(found)
    return np.sort(values[_inside(values, lo, hi)])


def _inside(x: Any, lo: float | None, hi: float | None) -> Any:
    if lo is None:
        return x == x if hi is None else x < hi  # x == x: all of them, since there is no NaN
    return x > lo if hi is None else (x > lo) & (x < hi)


def _total(parts: list[Part], test: Callable[[Any], Any]) -> int:
    return sum(_count(part.where(test)) for part in parts)


def _count(passed: Any) -> int:
    return int(np.count_nonzero(passed) if isinstance(passed, np.ndarray) else passed.count_nonzero())


def _positions(passed: Any) -> Any:
    """The row-major positions of what passed, ascending."""
    return np.flatnonzero(passed) if isinstance(passed, np.ndarray) else passed.reshape(-1).nonzero().squeeze(1)


def none_kept(tensor: Tensor) -> Tensor:
    """A bool tensor of the same shape and device that is nowhere True."""
    if tensor.device.type == "cpu":
        return torch.from_numpy(np.zeros(tensor.shape, bool))  # NumPy asks for huge pages: 10 MB cost 1 ms, not 7
    return torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)


def _native(x: Tensor) -> Any:
    """The tensor's memory as a NumPy array on the CPU, where NumPy compares and counts four times as fast."""
    return x.numpy() if x.device.type == "cpu" else x


def widest(dtypes: set[torch.dtype]) -> torch.dtype:
    """The type to compare in. It holds each value exactly (integers past 2⁵³ only when all are integers)."""
    if strange := dtypes - {*FLOATS, *INTEGERS}:
        raise Invalid(f"scores are of type {strange.pop()}; allowed: {COMPARABLE}")
    if dtypes <= set(INTEGERS):
        return torch.int64
    return torch.float64 if dtypes & {torch.float64, *INTEGERS} else torch.float32
