"""Zhou's supermask: each weight is there with a probability of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from prunus.core.errors import Invalid
from prunus.supermasks.layer import MaskedWeight
from prunus.supermasks.method import Method, check_finite, check_flag
from prunus.supermasks.part import Part


@dataclass(frozen=True)
class Bernoulli(Method):
    """Draws each entry of the mask from Bernoulli(σ(s)), anew in each forward pass, in evaluation too.

    With p = σ(s), b the draw and ŵ = w ⊙ b, the scores get ∂L/∂s = w ⊙ ∂L/∂ŵ ⊙ p (1 − p). With dynamic weight
    rescaling ŵ = (n / Σb) w ⊙ b, layer by layer, and the factor is differentiated too. How dense the mask gets is an
    outcome: it starts at one half. Draws are from PyTorch's own generator, like those of dropout. `masks_of` and
    `bake` give the most probable mask, p > 0.5.

    Zhou, Lan, Liu and Yosinski, "Deconstructing lottery tickets: zeros, signs, and the supermask", 2019, NeurIPS: SGD
    with momentum 0.9 at a rate of 100 without weight decay, batch 250, Glorot normal weights (or their signs times
    their deviation), images in [0, 1]; accuracy is the mean over ten draws. The large rate makes up for the factor
    w p (1 − p). A layer of which nothing is drawn is all zeros.

    Args:
        rescale: dynamic weight rescaling. Default: False.
        draw: `"sample"` as above. `"round"`, the authors' deterministic variant: in training each entry is, with
            probability one half, p itself (with its gradient) and else p rounded (without); in evaluation it is p
            rounded. Default: `"sample"`.
        first: the score of each weight at the start. Default: 0, a probability of one half.
    """

    rescale: bool = False
    draw: Literal["sample", "round"] = "sample"
    first: float = 0.0

    def __post_init__(self) -> None:
        if self.draw not in ("sample", "round"):
            raise Invalid(f"draw is {self.draw!r}; allowed: 'sample' or 'round'")
        check_finite("first", self.first)
        check_flag("rescale", self.rescale)

    def begin(self, weight: Tensor, _generator: torch.Generator, /) -> Tensor:
        """The same score everywhere."""
        return torch.full_like(weight, self.first, requires_grad=False)

    def write(self, layers: Sequence[MaskedWeight]) -> None:
        """Nothing is kept between forward passes."""

    def forward(self, layer: MaskedWeight, weight: Tensor) -> Tensor:
        """The weights of one draw."""
        assert layer.scores is not None
        probability = torch.sigmoid(layer.scores)
        if self.draw == "sample":
            drawn = (torch.rand_like(probability) < probability.detach()).to(weight.dtype)
            return _Drawn.apply(probability, weight, drawn, self.rescale)  # type: ignore[return-value]
        rounded = layer.mask().to(weight.dtype)
        if layer.training:
            rounded = torch.where(torch.rand_like(rounded) < 0.5, rounded, probability)
        if not self.rescale:
            return weight * rounded
        # probabilities may add up to less than one weight, and then n / Σb and its gradient know no bounds
        return weight * rounded * _factor(rounded, _total(rounded).clamp(min=1))

    def mask(self, layer: MaskedWeight) -> Tensor:
        """Where a weight is more likely there than not."""
        assert layer.scores is not None
        return layer.scores.detach() > 0

    def part(self, layer: MaskedWeight) -> Part:
        """The most probable mask, rescaled if draws are."""
        mask = layer.mask()
        kept = int(mask.count_nonzero())
        scale = mask.numel() / kept if self.rescale and kept else 1.0
        return Part(mask.to(torch.int8), torch.tensor(scale, dtype=torch.float32).item())


def _total(mask: Tensor) -> Tensor:
    return mask.sum(dtype=torch.promote_types(mask.dtype, torch.float32))  # float16 ends at 65,504


def _factor(mask: Tensor, total: Tensor) -> Tensor:
    return torch.full_like(total, mask.numel()) / total  # with a number to divide, torch would round twice


class _Drawn(Function):
    """w ⊙ b, times n / Σb where it is rescaled; the gradient of b goes to the probability."""

    @staticmethod
    def forward(ctx: Any, _probability: Tensor, weight: Tensor, drawn: Tensor, rescale: bool) -> Tensor:
        total = _total(drawn)
        factor = torch.where(total > 0, _factor(drawn, total), 0.0) if rescale else None
        ctx.save_for_backward(weight, drawn, factor, total if rescale else None)
        kept = weight * drawn
        return kept if factor is None else kept.mul_(factor)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Any) -> tuple[Tensor | None, ...]:
        weight, drawn, factor, total = ctx.saved_tensors  # type: ignore[attr-defined]
        product = gradients[0] * weight
        if factor is not None:
            # d/db of (n / Σb) w b: each entry by itself, and through the sum
            shared = (product * drawn).sum() / total.clamp(min=1)
            product = (product - shared) * factor
        return product, None, None, None
