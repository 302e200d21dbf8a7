"""Discovering neural wirings: the weights are their own scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid
from prunus.supermasks.ranked import Ranked


@dataclass(frozen=True)
class NeuralWirings(Ranked):
    """Keeps the largest |w|, and trains all weights as if they were kept.

    With ŵ = w ⊙ h, h the indicator of the top fraction of |w|, all weights get ∂L/∂w = ∂L/∂ŵ. An absent edge moves as
    it would if it were there, and comes back when it outgrows the weakest that is. Unlike the other methods this one
    trains the weights: nothing is frozen, and weight decay acts on absent edges too, as in the paper.

    Wortsman, Farhadi and Rastegari, "Discovering neural wirings", 2019, NeurIPS. Its MobileNets leave all but the
    pointwise convolutions dense: `include=` names them. Its dynamic graph is the model "wiring-graph".

    Args:
        density: see `Ranked`.
        scope: see `Ranked`.
        schedule: see `Ranked`.
        steps: see `Ranked`.
        start: see `Ranked`.
    """

    learns_weights: ClassVar[bool] = True

    def check(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Refuse a density that keeps no weight, and weights that cannot be ranked."""
        super().check(weights)
        for name, weight in weights.items():
            if not weight.is_meta and weight.isnan().any():
                raise Invalid(f"{name} has NaN in it; allowed: numbers and infinities")

    def begin(self, weight: Tensor, generator: torch.Generator, /) -> None:
        """No scores beside the weights."""
