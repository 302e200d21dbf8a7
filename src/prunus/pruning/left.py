"""`Left`: the weights that are left, while every round takes some of them away."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from prunus.core.allocation import Counts
from prunus.core.errors import Invalid
from prunus.core.floors import largest_above
from prunus.core.masks import Masks
from prunus.core.select import checked

#: Below this density the weights that are left are listed by position, and a round costs as much as there are of them.
LISTED = 0.5

#: Each parameter with the positions (int32, ascending, row-major) of what a round has taken from it.
Dropped = Iterator[tuple[str, Tensor]]


class Left:
    """What is left of each parameter.

    At first a bool tensor a parameter, later the positions (int32, ascending) of those that are left, so that a
    round late in an iterative schedule looks at few.

    Args:
        masks: what is left to begin with.
        listed: the density below which positions are listed.
    """

    def __init__(self, masks: Masks, listed: float = LISTED) -> None:
        self._listed = listed
        self._masks = dict(masks)
        self._positions: dict[str, Tensor] | None = None
        self.total, self.count = masks.total, masks.kept

    def of(self, name: str, values: Tensor) -> Tensor:
        """Of `values`, which have the parameter's shape, those that are scored: all at first, later those left."""
        there = values.to(self._masks[name].device)
        return there if self._positions is None else there.reshape(-1).index_select(0, self._positions[name])

    def zeros(self, name: str, dtype: torch.dtype) -> Tensor:
        """Scores of zero for a parameter."""
        mask = self._masks[name]
        shape = mask.shape if self._positions is None else self._positions[name].shape
        return torch.zeros(shape, dtype=dtype, device=mask.device)

    def keep(self, scores: Mapping[str, Tensor], count: int, floors: Counts) -> Dropped:
        """Keep the `count` largest scores of those left, ties by position.

        Args:
            scores: for each parameter, of the form of `of`; in the order of the parameters.
            count: how many are left then.
            floors: how many each parameter keeps at least.

        Returns:
            What is no longer there.

        Raises:
            Invalid: if there are not so many left, or a score is NaN or of a type that is not compared.
        """
        checked(scores, None)
        if count > self.count:
            raise Invalid(f"the schedule keeps {count:,} weights after a round that left {self.count:,}")
        dropped = self._narrow(scores, count, floors) if self._positions is None else self._list(scores, count, floors)
        self.count = count
        if self._positions is None and count < self._listed * self.total:
            self._positions = {name: _positions(mask) for name, mask in self._masks.items()}
        return dropped

    def become(self, masks: Masks) -> Dropped:
        """Keep what `masks` keep, which must be left now; the weights are never listed then.

        Returns:
            What is no longer there.
        """
        before, self._masks = self._masks, {n: masks[n].to(old.device) for n, old in self._masks.items()}
        self.count = masks.kept
        return _between(before, self._masks)

    def masks(self) -> Masks:
        """Masks of what is left."""
        if self._positions is None:
            return Masks._made(dict(self._masks))
        made = {name: torch.zeros_like(mask) for name, mask in self._masks.items()}
        for name, positions in self._positions.items():
            made[name].view(-1).index_fill_(0, positions.long(), True)
        return Masks._made(made)

    def _narrow(self, scores: Mapping[str, Tensor], count: int, floors: Counts) -> Dropped:
        among = None if self.count == self.total else list(self._masks.values())
        chosen = largest_above(scores, count, floors, among)
        before, self._masks = self._masks, dict(zip(self._masks, chosen, strict=True))
        return _between(before, self._masks)

    def _list(self, scores: Mapping[str, Tensor], count: int, floors: Counts) -> Dropped:
        assert self._positions is not None
        dropped = {}
        for (name, positions), kept in zip(self._positions.items(), largest_above(scores, count, floors), strict=True):
            dropped[name] = _where(~kept, positions)
            self._positions[name] = _where(kept, positions)
        return iter(dropped.items())


def _between(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Dropped:
    """Computed as it is asked for: nothing where nobody asks, one parameter at a time otherwise."""
    for name, mask in before.items():
        yield name, _positions(mask & ~after[name])


def _positions(mask: Tensor) -> Tensor:
    """The row-major positions at which the mask is True, ascending, int32."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()).astype(np.int32))
    return mask.reshape(-1).nonzero().squeeze(1).int()


def _where(mask: Tensor, values: Tensor) -> Tensor:
    """The values at which the mask is True. On the CPU by NumPy, which takes a third to an eighth of the time."""
    if mask.device.type == "cpu":
        return torch.from_numpy(values.numpy()[mask.numpy()])
    return values[mask]
