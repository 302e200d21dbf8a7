"""Drawing the weights of a network from a generator."""

from collections.abc import Callable
from math import prod
from typing import TypeVar

import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid, nearest

Model = TypeVar("Model", bound=nn.Module)
Row = TypeVar("Row", bound=Callable[..., nn.Module])

#: What draws the weights of a model from a generator, in place.
Initialiser = Callable[[nn.Module, torch.Generator], object]

#: The variance of a weight from the number of inputs and outputs a unit has.
_VARIANCES: dict[str, Callable[[int, int], float]] = {
    "glorot": lambda inputs, outputs: 2 / (inputs + outputs),
    "kaiming": lambda inputs, _: 2 / inputs,
    "kaiming-out": lambda _, outputs: 2 / outputs,
    "lecun": lambda inputs, _: 1 / inputs,
    "pytorch": lambda inputs, _: 1 / (3 * inputs),
    "small": lambda *_: 0.01**2,
}
_MARK = "initialiser"
_SHAPES = ("normal", "uniform")
SCHEMES = tuple(f"{variance}-{shape}" for variance in _VARIANCES for shape in _SHAPES)


@torch.no_grad()
def initialise(
    model: Model, generator: torch.Generator, scheme: str = "glorot-normal", *, linear: str | None = None
) -> Model:
    """Draw the weights of all linear and convolution layers anew and set their biases to zero, in place.

    All else (norms, embeddings, buffers) stays as it is. With the inputs and outputs of one unit (channels times
    the size of the convolution's field), weights have mean 0 and variance 2 / (inputs + outputs) for `glorot`
    (Understanding the difficulty of training deep feedforward neural networks, 2010, AISTATS), 2 / inputs for
    `kaiming` and 2 / outputs for `kaiming-out` (fan-in and fan-out of Delving deep into rectifiers, 2015, ICCV),
    1 / inputs for `lecun` (Efficient backprop, 1998), 1 / (3 × inputs) for `pytorch` (whose uniform is the range of
    ±1 / √inputs that PyTorch's layers start in) and 0.01² for `small` (ImageNet classification with deep
    convolutional neural networks, 2012, NIPS). The normal is not truncated (in Keras it is); a `uniform` scheme has
    the same variance as its `normal`. For a grouped convolution the inputs are those of one group and the outputs
    those of all, as PyTorch counts them.

    Args:
        model: any `nn.Module`.
        generator: a CPU generator; the same state gives the same weights on any device.
        scheme: one of `SCHEMES`. Default: `"glorot-normal"`, that of The lottery ticket hypothesis, 2019, ICLR.
        linear: the scheme of the linear layers, where that is another. Default: `scheme`.

    Returns:
        The model itself.

    Raises:
        Invalid: if there is no such scheme.
    """
    of_convolutions = _read("scheme", scheme)
    of_linear = of_convolutions if linear is None else _read("linear", linear)
    drawn: set[int] = set()
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            continue
        if id(module.weight) not in drawn:  # a tied weight is drawn once
            drawn.add(id(module.weight))
            variance, shape = of_linear if isinstance(module, nn.Linear) else of_convolutions
            std = variance(*fans(module)) ** 0.5
            module.weight.copy_(_draw(module.weight.shape, std, shape, generator))
        if module.bias is not None:
            module.bias.zero_()
    return model


def initialised_by(initialiser: Initialiser) -> Callable[[Row], Row]:
    """Mark an architecture with what draws its weights, for `build` to use in place of Glorot normal.

    Args:
        initialiser: `initialiser(model, generator)` draws the weights in place, from the generator alone.

    Returns:
        A decorator, which gives back the architecture itself.
    """

    def mark(architecture: Row) -> Row:
        setattr(architecture, _MARK, initialiser)
        return architecture

    return mark


def initialiser_of(architecture: object) -> Initialiser:
    """What draws the weights of an architecture: what it was marked with, or else `initialise`."""
    return getattr(architecture, _MARK, initialise)


def fans(module: nn.Linear | nn.modules.conv._ConvNd) -> tuple[int, int]:
    """The number of inputs and outputs of one unit of a layer, each at least 1.

    A convolution's are its channels times the size of its field; of a grouped one the inputs are those of one group
    and the outputs those of all.
    """
    outputs, inputs, *field = module.weight.shape
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        outputs, inputs = inputs, outputs
    # a layer without inputs has no weights to draw
    return max(1, inputs * prod(field)), max(1, outputs * prod(field))


def _read(option: str, scheme: str) -> tuple[Callable[[int, int], float], str]:
    if scheme not in SCHEMES:
        raise Invalid(f"{option} is {scheme!r}; {nearest(scheme, SCHEMES)}")
    variance, _, shape = scheme.rpartition("-")
    return _VARIANCES[variance], shape


def _draw(size: torch.Size, std: float, shape: str, generator: torch.Generator) -> Tensor:
    draws = torch.empty(size, dtype=torch.float32)
    if shape == "normal":
        return draws.normal_(0.0, std, generator=generator)
    bound = 3**0.5 * std
    return draws.uniform_(-bound, bound, generator=generator)
