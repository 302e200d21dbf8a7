"""The gradient of a masked weight: the mask is passed straight through, as if it were the number it came from."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from prunus.core.ranked import score_gradient


class Through(Function):
    """`effective`, with gradients to scores and weights that it was made from outside of autograd.

    With g the gradient at the effective weight ŵ, the scores get g · w (times the sign of the score where its absolute
    value was ranked, times `factor` where there is one), for kept and dropped entries alike. The weights, where they
    are trained, get g (times `mask` where there is one).
    """

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor | None,
        weight: Tensor,
        effective: Tensor,
        absolute: bool = False,
        factor: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """A view of `effective`: what reads it is told, as of any tensor, when it was written to since."""
        ctx.save_for_backward(scores, weight, factor, mask)
        ctx.absolute = absolute
        return effective.view_as(effective)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Any) -> tuple[Tensor | None, ...]:
        """See the class."""
        (gradient,) = gradients
        scores, weight, factor, mask = ctx.saved_tensors  # type: ignore[attr-defined]
        to_scores = to_weight = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            to_scores = _to_scores(gradient, weight, scores, ctx.absolute)  # type: ignore[attr-defined]
            to_scores = to_scores if factor is None else to_scores.mul_(factor)
        if ctx.needs_input_grad[1]:  # type: ignore[attr-defined]
            to_weight = gradient if mask is None else gradient * mask
        return to_scores, to_weight, None, None, None, None


def _to_scores(gradient: Tensor, weight: Tensor, scores: Tensor, absolute: bool) -> Tensor:
    if not torch.compiler.is_compiling() and not gradient.requires_grad:
        return score_gradient(gradient, weight, scores, absolute=absolute)
    product = gradient * weight  # the compiler fuses these, and create_graph=True can differentiate them again
    return product * scores.sign() if absolute else product
