"""Biprop: a subnetwork whose weights are binary up to one scale a layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.supermasks.edge_popup import EdgePopup
from prunus.supermasks.layer import MaskedWeight
from prunus.supermasks.part import Part
from prunus.supermasks.ranked import mean_of_kept


@dataclass(frozen=True)
class Biprop(EdgePopup):
    """Edge-popup over the signs of the weights: ŵ = α · sign(w) ⊙ h, with α the mean |w| of what a layer keeps.

    α is a constant for the gradient, so the scores learn as in edge-popup: ∂L/∂s = sign(s) ⊙ w ⊙ ∂L/∂ŵ. Activations
    are made binary too by `prunus.binary_activations(model)`.

    Diffenderfer and Kailkhura, "Multi-prize lottery ticket hypothesis", 2021, ICLR; the global scope is from
    Diffenderfer, Bartoldson, Chaganti, Zhang and Kailkhura, "A winning hand", 2021, NeurIPS, which lets the density
    fall to its target over the first ten epochs (`schedule`, `steps`). The authors' code divides by int(k · n); here
    it is the number that is kept. Settings: SGD 0.1, weight decay 1e-4, 100 epochs at batch 128; Adam 0.1 where
    activations are binary.

    Args:
        density: see `Ranked`.
        scope: see `Ranked`.
        schedule: see `Ranked`.
        steps: see `Ranked`.
        start: see `Ranked`.
        signed: see `EdgePopup`.
    """

    def write(self, layers: Sequence[MaskedWeight]) -> None:
        """The signs of the kept weights, times the layer's scale."""
        super().write(layers)
        for layer, kept in zip(layers, self._kept(layers), strict=True):
            effective = layer.effective
            assert effective is not None
            alpha = mean_of_kept(effective, kept)
            torch.mul(effective.sign(), alpha, out=effective)

    def parts(self, layers: Sequence[MaskedWeight]) -> list[Part]:
        """The scales are those that the layers compute with."""
        return [self._part(layer, mask) for layer, mask in zip(layers, self.masks(layers), strict=True)]

    def _part(self, layer: MaskedWeight, mask: Tensor) -> Part:
        layer.supermask.refresh_if_stale(layer)
        assert layer.effective is not None
        return Part(mask.to(torch.int8), layer.effective.abs().amax().item(), signs=True)

    def _kept(self, layers: Sequence[MaskedWeight]) -> list[Tensor] | list[int]:
        return [mask.count_nonzero() for mask in self.masks(layers)] if self.joint else [each.keep for each in layers]
