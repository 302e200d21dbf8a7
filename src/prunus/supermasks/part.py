"""`Part`: what a supermask makes of one weight tensor."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """A mask, and how the values under it come from the weights.

    Attributes:
        mask: int8 of the weight's shape: 1 keeps an entry, 0 drops it, −1 keeps it with its sign turned.
        scale: factor on all values, a float32 number.
        signs: whether only the signs of the weights count: the values are then ±scale.
    """

    mask: Tensor
    scale: float = 1.0
    signs: bool = False

    def values(self, weight: Tensor) -> Tensor:
        """What stands in place of `weight`: the same bits on every device, since each entry is its own product."""
        base = weight.sign() if self.signs else weight
        values = base * self.mask.to(weight.dtype)
        if self.scale != 1.0:
            values = values * self.scale
        return torch.where(self.mask != 0, values, 0.0)  # a dropped weight is +0, also where it is infinite
