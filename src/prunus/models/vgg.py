"""VGG-11, -16 and -19 for small images, plain and with BatchNorm.

Very deep convolutional networks for large-scale image recognition, 2015, ICLR (its configurations A, D and E), with
the heads of the pruning literature (Pruning neural networks without any data by iteratively conserving synaptic flow,
2020, NeurIPS). All convolutions are 3 × 3 with padding 1 and a bias, also before BatchNorm. The head follows from the
smaller side of the image:

- below 64 pixels (CIFAR): 2 × 2 max-pooling after each group of convolutions but the last, the mean over what is left,
  and one linear layer. All weights are Kaiming normal by their inputs.
- from 64 pixels on (Tiny ImageNet): max-pooling after every group, then all that is left (2,048 values of a 64 × 64
  image) to 1,024, 1,024 and the classes, with ReLU and dropout of 0.5 between. Convolutions are Kaiming normal by
  their outputs, linear weights normal with a standard deviation of 0.01. The 4,096 units of the 2015 paper's head for
  ImageNet are not built.

Biases are zero. Sides below 16 are refused.
"""

from math import prod

import torch
from torch import nn

from prunus.models.initial import initialise, initialised_by
from prunus.models.layers import Shape, check_sides, dense, scaled, sequential

_CHANNELS = (64, 128, 256, 512, 512)
_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_TINY = 64


def _start(model: nn.Module, generator: torch.Generator) -> None:
    has_hidden_units = sum(isinstance(layer, nn.Linear) for layer in model.modules()) > 1
    if has_hidden_units:
        initialise(model, generator, "kaiming-out-normal", linear="small-normal")
    else:
        initialise(model, generator, "kaiming-normal")


@initialised_by(_start)
def vgg_11(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """8 convolutions of 64 to 512 channels; one linear layer, or three from 64 × 64 pixels on."""
    return _vgg("vgg-11", 11, input_shape, classes, width)


@initialised_by(_start)
def vgg_16(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """13 convolutions of 64 to 512 channels; one linear layer, or three from 64 × 64 pixels on.

    On CIFAR-100 it has 14,761,664 prunable weights in 14 layers.
    """
    return _vgg("vgg-16", 16, input_shape, classes, width)


@initialised_by(_start)
def vgg_19(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """16 convolutions of 64 to 512 channels; one linear layer, or three from 64 × 64 pixels on."""
    return _vgg("vgg-19", 19, input_shape, classes, width)


@initialised_by(_start)
def vgg_11_bn(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """VGG-11 with BatchNorm after each convolution."""
    return _vgg("vgg-11-bn", 11, input_shape, classes, width)


@initialised_by(_start)
def vgg_16_bn(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """VGG-16 with BatchNorm after each convolution."""
    return _vgg("vgg-16-bn", 16, input_shape, classes, width)


@initialised_by(_start)
def vgg_19_bn(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """VGG-19 with BatchNorm after each convolution."""
    return _vgg("vgg-19-bn", 19, input_shape, classes, width)


def _vgg(name: str, depth: int, input_shape: Shape, classes: int, width: float) -> nn.Sequential:
    check_sides(name, input_shape, 16)
    before, *sides = input_shape
    layers: list[nn.Module] = []
    for channels, count in zip(_CHANNELS, _CONVOLUTIONS[depth], strict=True):
        after = scaled(channels, width)
        for _ in range(count):
            norm = [nn.BatchNorm2d(after)] if name.endswith("-bn") else []
            layers += [nn.Conv2d(before, after, 3, padding=1), *norm, nn.ReLU()]
            before = after
        layers.append(nn.MaxPool2d(2))
    if min(sides) < _TINY:
        layers[-1] = nn.AdaptiveAvgPool2d(1)
        return sequential([*layers, *dense([before, classes])])
    left = before * prod(side // 32 for side in sides)
    hidden = scaled(1024, width)
    return sequential([*layers, *dense([left, hidden, hidden, classes], dropout=0.5)])
