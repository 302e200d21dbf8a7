"""`SET`: sparse evolutionary training. Drop the smallest weights, grow random ones."""

from dataclasses import KW_ONLY, dataclass
from math import floor
from typing import ClassVar

import torch
from torch import Tensor

from prunus.sparse_training.dynamic import Choice, Dynamic
from prunus.sparse_training.layer import SparseLayer, largest


@dataclass(eq=False)
class SET(Dynamic):
    """Drop the smallest weights of each layer, grow as many at random.

    Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity inspired by
    network science", 2018, Nature Communications: after each epoch the fraction ζ = 0.3 of the positive weights
    closest to 0, and of the negative ones, is dropped (`signed=True`), and as many are drawn among the free positions.
    Later work, and this by default, drops the smallest |θ|, updates every 100 steps with a fraction that falls by a
    cosine, begins new weights at 0 (the authors draw them), and may draw a position again that was just dropped.

    Args:
        signed: whether positive and negative weights are dropped apart, ⌊fraction · count⌋ of each, as in the paper.

    The other arguments are those of `Dynamic` and `SparseTraining`.
    """

    name: ClassVar[str] = "set"

    _: KW_ONLY
    signed: bool = False

    def choice(self, name: str, layer: SparseLayer, fraction: float, step: int) -> Choice:
        """Of each sign the fraction, if that is asked for."""
        if not self.signed:
            return super().choice(name, layer, fraction, step)
        active = layer.active
        positive = layer.weight.detach().take(active) >= 0
        kept = torch.cat([self._strongest_of(layer, active[side], fraction) for side in (positive, ~positive)])
        kept = kept.sort().values
        return name, (kept, self.grown(layer, kept, len(active) - len(kept), step))

    def grown_anywhere(self, layer: SparseLayer, kept: Tensor, count: int, step: int) -> Tensor:
        """Each set of free positions is as likely as any other."""
        return layer.random_free(kept, count, self.stream("grow", step, layer.name))

    def growth(self, layer: SparseLayer, step: int) -> Tensor:
        """Random numbers."""
        draws = torch.rand(layer.size, generator=self.stream("grow", step, layer.name), dtype=torch.float64)
        return draws.to(layer.weight.device, torch.float64 if layer.weight.device.type != "mps" else torch.float32)

    def _strongest_of(self, layer: SparseLayer, active: Tensor, fraction: float) -> Tensor:
        return active[largest(layer.magnitudes(active), len(active) - floor(fraction * len(active)))]
