"""The networks of the papers, for any input shape and any number of classes."""

from collections.abc import Callable

import torch
from torch import nn

from prunus.core.errors import Invalid
from prunus.core.registry import Table
from prunus.core.seeds import generator as named_generator
from prunus.models.conv import conv_2, conv_4, conv_6, conv_8
from prunus.models.initial import Initialiser, initialise, initialised_by, initialiser_of
from prunus.models.layers import Shape
from prunus.models.lenet import lenet_5, lenet_300_100
from prunus.models.mobilenet import mobilenet_v1, mobilenet_v2
from prunus.models.reference import Reference, note_reference, reference_of
from prunus.models.resnet import resnet_18, resnet_20, resnet_32, resnet_50, resnet_56
from prunus.models.roles import kind_of, output_layer
from prunus.models.vgg import vgg_11, vgg_11_bn, vgg_16, vgg_16_bn, vgg_19, vgg_19_bn
from prunus.models.wide_resnet import wide_resnet_50_2, wrn_16_8, wrn_22_2, wrn_22_8, wrn_28_10
from prunus.models.wiring_graph import wiring_graph

__all__ = [
    "MODELS",
    "Architecture",
    "Initialiser",
    "Reference",
    "Shape",
    "build",
    "build_from",
    "initialise",
    "initialised_by",
    "kind_of",
    "output_layer",
    "reference_of",
]

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
        "vgg-11": vgg_11,
        "vgg-16": vgg_16,
        "vgg-19": vgg_19,
        "vgg-11-bn": vgg_11_bn,
        "vgg-16-bn": vgg_16_bn,
        "vgg-19-bn": vgg_19_bn,
        "resnet-18": resnet_18,
        "resnet-50": resnet_50,
        "resnet-20": resnet_20,
        "resnet-32": resnet_32,
        "resnet-56": resnet_56,
        "wrn-16-8": wrn_16_8,
        "wrn-22-2": wrn_22_2,
        "wrn-22-8": wrn_22_8,
        "wrn-28-10": wrn_28_10,
        "wide-resnet-50-2": wide_resnet_50_2,
        "mobilenet-v1": mobilenet_v1,
        "mobilenet-v2": mobilenet_v2,
        "wiring-graph": wiring_graph,
    },
    "prunus.models",
)


def build(name: str, input_shape: Shape, classes: int, *, width: float = 1.0, generator: torch.Generator) -> nn.Module:
    """A fresh model on the CPU, with the initial weights of its paper and zero biases.

    Each network says in its docstring how its weights are drawn; one that says nothing gets what `initialise` gives
    with the same generator: Glorot normal. All draws come from the generator, and the global one is left as it was.

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
    initialiser_of(architecture)(model, generator)
    note_reference(model, Reference(name, shape, classes, float(width)))
    return model


def build_from(reference: Reference, seed: int = 0) -> nn.Module:
    """The network that `reference` refers to, on the CPU, with other weights: those that `seed` gives.

    Raises:
        Invalid: if there is no such network, or a value is out of range.
    """
    draws = named_generator(seed, "rebuilt")
    shape, width = reference.input_shape, reference.width
    return build(reference.name, shape, reference.classes, width=width, generator=draws)


def _check_shape(input_shape: Shape) -> Shape:
    shape = tuple(input_shape)
    if len(shape) != 3 or not all(map(_is_whole, shape)):
        raise Invalid(f"input_shape is {input_shape!r}; allowed: (channels, height, width), each at least 1")
    return shape


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
