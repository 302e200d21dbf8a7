"""Movement pruning: weights and scores are trained together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunus.supermasks.layer import MaskedWeight
from prunus.supermasks.ranked import Ranked
from prunus.supermasks.through import Through


@dataclass(frozen=True)
class Movement(Ranked):
    """Keeps the largest scores; a score grows while its weight moves away from zero.

    With ŵ = w ⊙ h, h the indicator of the top fraction of s (not of |s|), the scores get ∂L/∂s = w ⊙ ∂L/∂ŵ, dropped
    entries too, and the weights ∂L/∂w = h ⊙ ∂L/∂ŵ. Scores start at 0, so a schedule is needed to begin with a dense
    network: with all scores equal, position would decide. `prunus.scores(model)` gives the scores; weights and biases
    are trained as without Prunus, with a rate of their own.

    Sanh, Wolf and Rush, "Movement pruning: adaptive sparsity by fine-tuning", 2020, NeurIPS: a cubic schedule over the
    middle of training, scores by Adam at 1e-2, weights at 3e-5 (fine-tuning BERT).

    Args:
        density: see `Ranked`.
        scope: see `Ranked`.
        schedule: see `Ranked`; the paper's is `"cubic"`.
        steps: see `Ranked`.
        start: see `Ranked`.
    """

    learns_weights: ClassVar[bool] = True
    absolute: ClassVar[bool] = False

    def begin(self, weight: Tensor, _generator: torch.Generator, /) -> Tensor:
        """Zeros."""
        return torch.zeros_like(weight, requires_grad=False)

    def write(self, layers: Sequence[MaskedWeight]) -> None:
        """The kept weights, and the mask, which the gradient of the weights needs."""
        super().write(layers)
        for layer, mask in zip(layers, self.masks(layers), strict=True):
            layer.held = mask

    def forward(self, layer: MaskedWeight, weight: Tensor) -> Tensor:
        """The kept weights, with gradients to scores and to weights."""
        layer.supermask.refresh_if_stale(layer)
        return Through.apply(layer.scores, weight, layer.effective, False, None, layer.held)  # type: ignore[return-value]
