"""Piggyback: a mask for each task over a network that was trained for another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from prunus.core.errors import Invalid
from prunus.supermasks.layer import MaskedWeight
from prunus.supermasks.method import Method, check_finite, check_flag
from prunus.supermasks.part import Part
from prunus.supermasks.through import Through


@dataclass(frozen=True)
class Piggyback(Method):
    """Keeps the weights whose score is above a threshold; all are kept at the start, so the backbone is where it was.

    With m = 1[r > τ] and ŵ = m ⊙ W, the scores get ∂L/∂r = W ⊙ ∂L/∂ŵ, all entries. The ternary form has m = −1 below
    0, 0 from 0 to τ and 1 above. Weights, biases and norms are frozen, and norm layers keep the pretrained statistics,
    in training too. Give the new head to `train=`, and to the optimizer beside the scores. How dense the mask gets is
    an outcome, not a target.

    Mallya, Davis and Lazebnik, "Piggyback: adapting a single network to multiple tasks by learning to mask weights",
    2018, ECCV: Adam 1e-4 on scores and head, times 0.1 after 15 of 30 epochs, batch 32. A bit takes at least
    (start − threshold) / rate steps to turn, 50 in the paper.

    Args:
        ternary: whether a weight may also be kept with its sign turned. Default: False.
        threshold: τ. Default: 5e-3.
        first: the score of each weight at the start, above the threshold. Default: 1e-2.
        balance: what the gradient of a score is divided by: the mean |W| of the layer (`"layer"`), the weight's own |W|
            (`"entry"`), or nothing (None, the default). It evens out layers with small weights.
    """

    fixes_statistics: ClassVar[bool] = True

    ternary: bool = False
    threshold: float = 5e-3
    first: float = 1e-2
    balance: Literal["layer", "entry"] | None = None

    def __post_init__(self) -> None:
        check_finite("threshold", self.threshold)
        check_finite("first", self.first)
        check_flag("ternary", self.ternary)
        if not 0 <= self.threshold < self.first:
            raise Invalid(f"threshold is {self.threshold} and first {self.first}; allowed: 0 ≤ threshold < first")
        if self.balance not in (None, "layer", "entry"):
            raise Invalid(f"balance is {self.balance!r}; allowed: 'layer', 'entry' or None")

    def begin(self, weight: Tensor, _generator: torch.Generator, /) -> Tensor:
        """The same score everywhere."""
        return torch.full_like(weight, self.first, requires_grad=False)

    def forward(self, layer: MaskedWeight, weight: Tensor) -> Tensor:
        """The kept weights."""
        layer.supermask.refresh_if_stale(layer)
        return Through.apply(layer.scores, weight, layer.effective, False, self._factor(weight))  # type: ignore[return-value]

    def write(self, layers: Sequence[MaskedWeight]) -> None:
        """Each weight times 1, 0 or −1."""
        for layer in layers:
            weight, values = layer.weight, self._values(layer)
            torch.where(values != 0, weight * values, weight.new_zeros(()), out=layer.place())

    def mask(self, layer: MaskedWeight) -> Tensor:
        """Where a weight is kept, with either sign."""
        return self._values(layer) != 0

    def part(self, layer: MaskedWeight) -> Part:
        """The mask with its signs."""
        return Part(self._values(layer))

    def _values(self, layer: MaskedWeight) -> Tensor:
        assert layer.scores is not None
        scores = layer.scores.detach()
        kept = (scores > self.threshold).to(torch.int8)
        return kept - (scores < 0).to(torch.int8) if self.ternary else kept

    def _factor(self, weight: Tensor) -> Tensor | None:
        if self.balance is None:
            return None
        size = weight.detach().abs()
        size = size.mean() if self.balance == "layer" else size
        return torch.where(size > 0, 1 / size, 0.0)
