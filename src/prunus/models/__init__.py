"""The networks of the papers, for any input shape and any number of classes."""

from collections.abc import Callable

import torch
from torch import nn

from prunus.core.errors import Invalid
from prunus.core.registry import Table
from prunus.models.conv import conv_2, conv_4, conv_6, conv_8
from prunus.models.initial import initialise
from prunus.models.layers import Shape
from prunus.models.lenet import lenet_5, lenet_300_100
from prunus.models.roles import kind_of, output_layer

__all__ = ["MODELS", "Architecture", "Shape", "build", "initialise", "kind_of", "output_layer"]

#: What a row of `MODELS` is: (input shape, classes, width) to a model; the values are already checked.
Architecture = Callable[[Shape, int, float], nn.Module]

#: The models by name. The first line of a row's docstring is what `prunus list` says about it.
MODELS: Table[Architecture] = Table(
    "model",
    {
        "lenet-300-100": lenet_300_100,
        "lenet-5": lenet_5,
        "conv-2": conv_2,
        "conv-4": conv_4,
        "conv-6": conv_6,
        "conv-8": conv_8,
    },
    "prunus.models",
)


def build(name: str, input_shape: Shape, classes: int, *, width: float = 1.0, generator: torch.Generator) -> nn.Module:
    """A fresh model on the CPU, with Glorot normal weights and zero biases.

    The weights are those that `initialise` gives with the same generator. The global generator is left as it was.

    Args:
        name: a name in `MODELS`.
        input_shape: (channels, height, width) of an image.
        classes: how many outputs there are.
        width: factor on the number of units and channels of every hidden layer (rounded, at least 1). Default: 1.
        generator: a CPU generator, which draws the weights.

    Raises:
        Invalid: if there is no such model, a value is out of range, or the image is too small for the model.
    """
    architecture = MODELS.look_up(name, "model")
    shape = _check_shape(input_shape)
    if not _is_whole(classes):
        raise Invalid(f"classes is {classes!r}; allowed: a whole number of at least 1")
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < float("inf"):
        raise Invalid(f"width is {width!r}; allowed: a number above 0")
    with torch.random.fork_rng(devices=[]):
        # whatever else a model of another package draws is then a function of the generator's seed too
        torch.default_generator.manual_seed(generator.initial_seed())
        model = architecture(shape, classes, float(width))
    return initialise(model, generator)


def _check_shape(input_shape: Shape) -> Shape:
    shape = tuple(input_shape)
    if len(shape) != 3 or not all(map(_is_whole, shape)):
        raise Invalid(f"input_shape is {input_shape!r}; allowed: (channels, height, width), each at least 1")
    return shape


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
