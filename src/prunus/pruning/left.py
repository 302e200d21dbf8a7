"""`Left`: the weights that are left, while every round takes some of them away."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from prunus.core.allocation import Counts
from prunus.core.errors import Invalid
from prunus.core.floors import largest_above
from prunus.core.masks import Masks
from prunus.core.select import checked

#: Below this density the weights that are left are listed by position, and a round costs as much as there are of them.
LISTED = 0.5


class Left:
    """What is left of each parameter.

    At first a bool tensor a parameter, later the positions (int32, ascending) of those that are left, so that a
    round late in an iterative schedule looks at few.

    Args:
        weights: the parameters by name.
        listed: the density below which positions are listed.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], listed: float = LISTED) -> None:
        self._listed = listed
        self._shapes = {name: weight.shape for name, weight in weights.items()}
        self._masks = {n: torch.ones(w.shape, dtype=torch.bool, device=w.device) for n, w in weights.items()}
        self._positions: dict[str, Tensor] | None = None
        self.total = self.count = sum(weight.numel() for weight in weights.values())

    def of(self, name: str, values: Tensor) -> Tensor:
        """Of `values`, which have the parameter's shape, those that are scored: all at first, later those left."""
        there = values.to(self._masks[name].device)
        return there if self._positions is None else there.reshape(-1).index_select(0, self._positions[name])

    def zeros(self, name: str, dtype: torch.dtype) -> Tensor:
        """Scores of zero for a parameter."""
        mask = self._masks[name]
        shape = mask.shape if self._positions is None else self._positions[name].shape
        return torch.zeros(shape, dtype=dtype, device=mask.device)

    def keep(self, scores: Mapping[str, Tensor], count: int, floors: Counts) -> dict[str, Tensor]:
        """Keep the `count` largest scores of those left, ties by position.

        Args:
            scores: for each parameter, of the form of `of`; in the order of the parameters.
            count: how many are left then.
            floors: how many each parameter keeps at least.

        Returns:
            For each parameter, the positions of what is no longer there (int64, ascending).

        Raises:
            Invalid: if there are not so many left, or a score is NaN or of a type that is not compared.
        """
        checked(scores, None)
        if count > self.count:
            raise Invalid(f"the schedule keeps {count:,} weights after a round that left {self.count:,}")
        dropped = self._narrow(scores, count, floors) if self._positions is None else self._list(scores, count, floors)
        self.count = count
        if self._positions is None and count < self._listed * self.total:
            self._positions = {name: _positions(mask).int() for name, mask in self._masks.items()}
        return dropped

    def become(self, masks: Masks) -> dict[str, Tensor]:
        """Keep what `masks` keep, which must be left now; the weights are never listed then.

        Returns:
            As `keep` does.
        """
        dropped = {n: _positions(before & ~masks[n]) for n, before in self._masks.items()}
        self._masks = {n: masks[n].to(before.device) for n, before in self._masks.items()}
        self.count = masks.kept
        return dropped

    def masks(self) -> Masks:
        """Masks of what is left."""
        if self._positions is None:
            return Masks(self._masks)
        made = {}
        for name, positions in self._positions.items():
            flat = torch.zeros(self._shapes[name].numel(), dtype=torch.bool, device=positions.device)
            made[name] = flat.index_fill_(0, positions.long(), True).view(self._shapes[name])
        return Masks._made(made)

    def _narrow(self, scores: Mapping[str, Tensor], count: int, floors: Counts) -> dict[str, Tensor]:
        among = None if self.count == self.total else list(self._masks.values())
        chosen = largest_above(scores, count, floors, among)
        dropped = {
            n: _positions(before & ~after) for (n, before), after in zip(self._masks.items(), chosen, strict=True)
        }
        self._masks = dict(zip(self._masks, chosen, strict=True))
        return dropped

    def _list(self, scores: Mapping[str, Tensor], count: int, floors: Counts) -> dict[str, Tensor]:
        assert self._positions is not None
        dropped = {}
        for (name, positions), kept in zip(self._positions.items(), largest_above(scores, count, floors), strict=True):
            dropped[name] = _where(~kept, positions).long()
            self._positions[name] = _where(kept, positions)
        return dropped


def _positions(mask: Tensor) -> Tensor:
    """The row-major positions at which the mask is True, ascending, int64."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.reshape(-1).nonzero().squeeze(1)


def _where(mask: Tensor, values: Tensor) -> Tensor:
    """The values at which the mask is True. On the CPU by NumPy, which takes a third to an eighth of the time."""
    if mask.device.type == "cpu":
        return torch.from_numpy(values.numpy()[mask.numpy()])
    return values[mask]
