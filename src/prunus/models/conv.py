"""Conv-2, -4, -6 and -8: small VGG-like networks.

Pairs of 3 × 3 convolutions with padding 1 and ReLU, 2 × 2 max-pooling after each pair, then linear layers of 256,
256 and the number of classes. Conv-2, -4 and -6: The lottery ticket hypothesis: finding sparse, trainable neural
networks, 2019, ICLR. Conv-8: What's hidden in a randomly weighted neural network?, 2020, CVPR. The first paper
prints 1.7 M weights for Conv-6; its own list of layers gives the 2,261,184 (32 × 32 colour images, 10 classes)
built here.
"""

from math import prod

from torch import nn

from prunus.models.layers import Shape, check_sides, dense, scaled, sequential


def conv_2(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """Two convolutions of 64 channels, then 256 and 256 units."""
    return _conv([64], input_shape, classes, width)


def conv_4(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """Two convolutions each of 64 and 128 channels, then 256 and 256 units."""
    return _conv([64, 128], input_shape, classes, width)


def conv_6(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """Two convolutions each of 64, 128 and 256 channels, then 256 and 256 units."""
    return _conv([64, 128, 256], input_shape, classes, width)


def conv_8(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """Two convolutions each of 64, 128, 256 and 512 channels, then 256 and 256 units."""
    return _conv([64, 128, 256, 512], input_shape, classes, width)


def _conv(blocks: list[int], input_shape: Shape, classes: int, width: float) -> nn.Sequential:
    shrink = 2 ** len(blocks)
    check_sides(f"conv-{2 * len(blocks)}", input_shape, shrink)
    channels, *sides = input_shape
    layers: list[nn.Module] = []
    for block in blocks:
        for _ in range(2):
            after = scaled(block, width)
            layers += [nn.Conv2d(channels, after, 3, padding=1), nn.ReLU()]
            channels = after
        layers.append(nn.MaxPool2d(2))
    left = channels * prod(side // shrink for side in sides)
    hidden = scaled(256, width)
    return sequential([*layers, *dense([left, hidden, hidden, classes])])
