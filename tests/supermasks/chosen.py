"""`Chosen`: a method whose masks are drawn once, with all that a mask in a file can have."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.supermasks import Method, Part
from prunus.supermasks.layer import MaskedWeight


@dataclass(frozen=True)
class Chosen(Method):
    """Keeps a fraction of each weight at random places; turns the signs of half of it where it is `ternary`."""

    target: float | None = 0.5
    ternary: bool = False
    scale: float = 1.0
    signs: bool = False

    def begin(self, weight: Tensor, generator: torch.Generator) -> Tensor:
        return torch.empty(weight.shape).uniform_(-1, 1, generator=generator).to(weight)

    def mask(self, layer: MaskedWeight) -> Tensor:
        return self.part(layer).mask != 0

    def part(self, layer: MaskedWeight) -> Part:
        scores = layer.scores.detach().flatten()
        kept = torch.zeros(len(scores), dtype=torch.int8)
        kept[scores.abs().argsort()[len(scores) - round(self.target * len(scores)) :].cpu()] = 1
        mask = (kept * scores.cpu().sign().to(torch.int8)) if self.ternary else kept
        return Part(mask.reshape(layer.weight.shape).to(layer.weight.device), self.scale, self.signs)

    def write(self, layers: Sequence[MaskedWeight]) -> None:
        for layer in layers:
            layer.place().copy_(self.part(layer).values(layer.weight))
