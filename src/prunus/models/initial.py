"""Drawing the weights of a network from a generator."""

from collections.abc import Callable
from math import prod
from typing import TypeVar

import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid, nearest

Model = TypeVar("Model", bound=nn.Module)

#: The variance of a weight from the number of inputs and outputs a unit has.
_VARIANCES: dict[str, Callable[[int, int], float]] = {
    "glorot": lambda inputs, outputs: 2 / (inputs + outputs),
    "kaiming": lambda inputs, _: 2 / inputs,
    "lecun": lambda inputs, _: 1 / inputs,
}
_SHAPES = ("normal", "uniform")
SCHEMES = tuple(f"{variance}-{shape}" for variance in _VARIANCES for shape in _SHAPES)


@torch.no_grad()
def initialise(model: Model, generator: torch.Generator, scheme: str = "glorot-normal") -> Model:
    """Draw the weights of all linear and convolution layers anew and set their biases to zero, in place.

    All else (norms, embeddings, buffers) stays as it is. With the inputs and outputs of one unit (channels times
    the size of the convolution's field), weights have mean 0 and variance 2 / (inputs + outputs) for `glorot`
    (Understanding the difficulty of training deep feedforward neural networks, 2010, AISTATS), 2 / inputs for
    `kaiming` (Delving deep into rectifiers, 2015, ICCV) and 1 / inputs for `lecun` (Efficient backprop, 1998). The
    normal is not truncated (in Keras it is); a `uniform` scheme has the same variance as its `normal`.

    Args:
        model: any `nn.Module`.
        generator: a CPU generator; the same state gives the same weights on any device.
        scheme: one of `SCHEMES`. Default: `"glorot-normal"`, that of The lottery ticket hypothesis, 2019, ICLR.

    Returns:
        The model itself.

    Raises:
        Invalid: if there is no such scheme.
    """
    if scheme not in SCHEMES:
        raise Invalid(f"scheme is {scheme!r}; {nearest(scheme, SCHEMES)}")
    variance, shape = scheme.split("-")
    drawn: set[int] = set()
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            continue
        if id(module.weight) not in drawn:  # a tied weight is drawn once
            drawn.add(id(module.weight))
            inputs, outputs = _fans(module)
            std = _VARIANCES[variance](inputs, outputs) ** 0.5
            module.weight.copy_(_draw(module.weight.shape, std, shape, generator))
        if module.bias is not None:
            module.bias.zero_()
    return model


def _draw(size: torch.Size, std: float, shape: str, generator: torch.Generator) -> Tensor:
    draws = torch.empty(size, dtype=torch.float32)
    if shape == "normal":
        return draws.normal_(0.0, std, generator=generator)
    bound = 3**0.5 * std
    return draws.uniform_(-bound, bound, generator=generator)


def _fans(module: nn.Linear | nn.modules.conv._ConvNd) -> tuple[int, int]:
    outputs, inputs, *field = module.weight.shape
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        outputs, inputs = inputs, outputs
    # a layer without inputs has no weights to draw
    return max(1, inputs * prod(field)), max(1, outputs * prod(field))
