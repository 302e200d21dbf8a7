"""Binary activations, for biprop."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from prunus.core.errors import Invalid


class BinaryActivation(nn.Module):
    """sign(x), with 1 at 0; the gradient is that of x clipped to [−1, 1].

    Courbariaux, Hubara, Soudry, El-Yaniv and Bengio, "Binarized neural networks", 2016, arXiv, as used by Diffenderfer
    and Kailkhura, "Multi-prize lottery ticket hypothesis", 2021, ICLR.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Each entry as −1 or 1."""
        return _Sign.apply(x)  # type: ignore[return-value]


class _Sign(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x < 0, -1.0, 1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Any) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradients[0] * (x.abs() <= 1)


def binary_activations(model: nn.Module) -> int:
    """Put a `BinaryActivation` in the place of each `nn.ReLU` and `nn.ReLU6` module of `model`.

    Activations that are called as functions (`F.relu`) are not seen: such a model is refused if it has no module.

    Returns:
        How many modules were replaced.

    Raises:
        Invalid: if there is none.
    """
    found = [(m, name) for m in model.modules() for name, child in m.named_children() if isinstance(child, _RELUS)]
    if not found:
        raise Invalid(
            f"{type(model).__name__} has no nn.ReLU module to replace; put a BinaryActivation where one is due"
        )
    for module, name in found:
        setattr(module, name, BinaryActivation())
    return len(found)


_RELUS = (nn.ReLU, nn.ReLU6)
