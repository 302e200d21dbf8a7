"""Critical compression: how far masks go before a layer collapses.

The critical compression ratio of a method is the largest without layer collapse; it is at most N / L, one weight a
layer (Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", 2020,
NeurIPS). Published figures read it off a grid of ratios; here it is exact, in the number of weights kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isqrt, log10
from typing import Any

from torch import Tensor, nn

from prunus.analysis.collapse import sizes_of
from prunus.core.errors import Invalid, nearest
from prunus.core.largest import widest
from prunus.core.masks import Masks
from prunus.core.params import Globs
from prunus.core.select import checked


@dataclass(frozen=True)
class Critical:
    """The largest compression ratio without layer collapse.

    Attributes:
        kept: the smallest number of weights that leaves one to each layer.
        total: how many weights there are in all.
        layers: how many layers have to keep a weight.
        first: the layer that has none left with one weight less; None at the maximum, where any may be, or where the
            method made no masks.
        evaluations: how many masks were made to find out.
    """

    kept: int
    total: int
    layers: int
    first: str | None
    evaluations: int

    @property
    def compression(self) -> float:
        """The critical compression ratio, total / kept."""
        return self.total / self.kept

    @property
    def log10(self) -> float:
        """The power of ten that it is."""
        return log10(self.compression)

    @property
    def maximum(self) -> float:
        """The largest compression ratio that is possible: total / layers."""
        return self.total / self.layers

    @property
    def is_maximal(self) -> bool:
        """Whether the largest possible compression is reached."""
        return self.kept == self.layers

    def __str__(self) -> str:
        reached = f"critical compression 10^{self.log10:.2f} ({self.compression:,.6g}×, {self.kept:,} weights kept)"
        possible = f"possible: 10^{log10(self.maximum):.2f} ({self.layers} layers, {self.total:,} weights)"
        first = "" if self.first is None else f"; {self.first} goes first"
        return f"{reached}{first}; {possible}"


def critical_compression(
    masks_at: Callable[[int], Masks | None],
    weights: nn.Module | Mapping[str, Any],
    *,
    exclude: Globs | None = None,
    tolerance: float = 0.0,
) -> Critical:
    """The largest compression ratio at which each layer has a weight, by bisection on the number of weights kept.

    The maximum itself is tried first, one weight a layer; then the middle, on a logarithmic scale, between a number
    that empties a layer and one that does not. So one evaluation is enough where the maximum is reached, and about
    log₂(N) are needed far from it. For a method whose masks are not nested, the boundary found is one of possibly
    several.

    Args:
        masks_at: masks that keep so many weights. For a model and a criterion, of n weights:
            `lambda keep: prunus.prune(model, criterion, keep / n)`. It may give None where the method itself fails to
            make masks, which counts as a collapse.
        weights: which layers there are, and how many weights each has: a model, or a mapping of tensors or sizes by
            parameter name.
        exclude: glob patterns on names of parameters that may be emptied, such as the convolutions of shortcuts.
        tolerance: how far the logarithm to base 10 of the ratio may be below the exact one. Default: 0, exact.

    Raises:
        Invalid: if there is no weight, a pattern matches nothing, the tolerance is negative, masks lack a layer, or
            they do not keep as many weights as asked for.
    """
    sizes = sizes_of(weights)
    needed = _needed(sizes, exclude)
    if not 0 <= tolerance < float("inf"):
        raise Invalid(f"tolerance is {tolerance!r}; allowed: a number from 0")
    low, high, tried = len(needed), sum(sizes.values()), 1
    gone = _emptied(masks_at, low, sizes, needed)
    if gone is not None:
        while high - low > 1 and log10(high / low) > tolerance:
            middle = min(max(isqrt(low * high), low + 1), high - 1)
            found = _emptied(masks_at, middle, sizes, needed)
            tried += 1
            if found is None:
                high = middle
            else:
                low, gone = middle, found
    kept, first = (low, None) if gone is None else (high, gone or None)
    return Critical(kept, sum(sizes.values()), len(needed), first, tried)


def _needed(sizes: Mapping[str, int], exclude: Globs | None) -> list[str]:
    patterns = (exclude,) if isinstance(exclude, str) else tuple(exclude or ())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in sizes):
            raise Invalid(f"exclude={pattern!r} matches no parameter; {nearest(pattern, sizes)}")
    needed = [name for name in sizes if not any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not needed:
        raise Invalid(f"exclude={exclude!r} leaves no layer that has to keep a weight")
    return needed


def _emptied(
    masks_at: Callable[[int], Masks | None], keep: int, sizes: Mapping[str, int], needed: list[str]
) -> str | None:
    """The first needed layer without a weight, "" where there are no masks, or None if all have one."""
    masks = masks_at(keep)
    if masks is None:
        return ""
    for name in (*sizes, *masks):
        if name not in masks or (name not in sizes and masks[name].numel()):
            raise Invalid(f"masks_at({keep}) and the weights are of different models: only one has {name!r}")
    if masks.kept != keep:
        raise Invalid(f"masks_at({keep}) keeps {masks.kept} weights; allowed: exactly as many as asked for")
    kept = {layer.name: layer.kept for layer in masks.layers}
    return next((name for name in needed if not kept[name]), None)


def critical_compression_of(scores: Mapping[str, Tensor], *, exclude: Globs | None = None) -> Critical:
    """The same for scores that are computed once, of which the largest are kept: exact, without any search.

    A layer has a weight as long as its best score is among those kept. So the worst of all layers' best scores has to
    be, and as many are kept as that has rank, ties by position as in `prunus.select`.

    Args:
        scores: one tensor for each parameter; larger means keep.
        exclude: as for `critical_compression`.

    Raises:
        Invalid: if a score is NaN or of a type that is not compared, there is none, or a pattern matches nothing.
    """
    sizes = sizes_of(scores)
    needed = _needed(sizes, exclude)
    checked(scores, None)
    dtype = widest({scores[name].dtype for name in sizes})
    there = {name: scores[name].detach().to(dtype) for name in sizes}
    best = {name: there[name].amax().item() for name in needed}
    worst = min(best.values())
    last = [name for name in needed if best[name] == worst][-1]
    names = list(sizes)
    above = sum(int((tensor > worst).count_nonzero()) for tensor in there.values())
    ties_before = sum(int((there[name] == worst).count_nonzero()) for name in names[: names.index(last)])
    kept = above + ties_before + 1
    return Critical(kept, sum(sizes.values()), len(needed), last if kept > len(needed) else None, 0)
