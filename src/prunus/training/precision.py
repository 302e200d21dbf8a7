"""In which number format a network is computed while it trains."""

from contextlib import AbstractContextManager, nullcontext

import torch


def computing_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context for forward pass and loss: nothing for `"float32"`, PyTorch's autocast for `"bfloat16"`.

    Under autocast products and convolutions are computed in bfloat16, and what needs the range (softmax, losses,
    sums of norms) in float32. bfloat16 has float32's exponents, so gradients need no scaling.

    Args:
        precision: as in `Recipe.precision`.
        device: where the network is computed.
    """
    if precision == "float32":
        return nullcontext()
    # weights change in each step, and a copy that is cached outside a captured graph would stay as it is
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
