"""`CodedLayer`: the mask of one weight in the bytes of a file."""

from dataclasses import dataclass, field
from math import isfinite, prod
from typing import Self

import numpy as np
import torch

from prunus.core.errors import Invalid
from prunus.supermasks.coding import decode, encode, entropy
from prunus.supermasks.part import Part


@dataclass(frozen=True)
class CodedLayer:
    """The mask of one weight, coded.

    Attributes:
        name: of the weight in the plain model.
        shape: of the weight.
        kept: how many entries are kept.
        turned: how many of these have their sign turned.
        scale: factor on all values, a float32 number.
        signs: whether only the signs of the weights count.
        mask: which entries are kept, coded.
        turns: which of these are turned, coded.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    turned: int
    scale: float
    signs: bool
    mask: bytes = field(repr=False)
    turns: bytes = field(repr=False)

    @classmethod
    def of(cls, name: str, part: Part) -> Self:
        """What `part` makes of the weight called `name`.

        Raises:
            Invalid: if its scale is no finite number.
        """
        if not isfinite(part.scale):
            raise Invalid(f"the scale of {name} is {part.scale}; allowed: a finite number")
        entries = part.mask.detach().cpu().numpy().reshape(-1)
        kept = entries != 0
        turned = entries[kept] < 0
        counts = int(kept.sum()), int(turned.sum())
        return cls(name, tuple(part.mask.shape), *counts, part.scale, part.signs, encode(kept), encode(turned))

    @property
    def count(self) -> int:
        """How many entries the weight has."""
        return prod(self.shape)

    @property
    def coded(self) -> int:
        """Bytes of the coded mask."""
        return len(self.mask) + len(self.turns)

    @property
    def bound(self) -> float:
        """Bytes that n · H(kept / n) bits take, with those of the turned signs."""
        return (entropy(self.count, self.kept) + entropy(self.kept, self.turned)) / 8

    def part(self) -> Part:
        """The mask again.

        Raises:
            Invalid: if the coded bits are cut off or altered.
        """
        try:
            kept = decode(self.mask, self.count, self.kept)
            turned = decode(self.turns, self.kept, self.turned)
        except Invalid as error:
            raise Invalid(f"{self.name}: {error}") from error
        entries = kept.astype(np.int8)
        entries[kept] = 1 - 2 * turned.astype(np.int8)
        return Part(torch.from_numpy(entries).reshape(self.shape), self.scale, self.signs)
