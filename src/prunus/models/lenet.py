"""LeNet-300-100 and LeNet-5: Gradient-based learning applied to document recognition, 1998, Proc. IEEE."""

from math import prod

from torch import nn

from prunus.models.layers import Shape, check_sides, dense, scaled, sequential


def lenet_300_100(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """Fully connected, hidden layers of 300 and 100 units.

    With ReLU, as in The lottery ticket hypothesis, 2019, ICLR. On 28 × 28 images of 10 classes it has
    235,200 + 30,000 + 1,000 = 266,200 prunable weights.
    """
    return sequential(dense([prod(input_shape), scaled(300, width), scaled(100, width), classes]))


def lenet_5(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """Convolutions 5 × 5 of 6 and 16 channels, each with pooling, then 120 and 84 units.

    The usual modern variant: ReLU for the scaled tanh, 2 × 2 max-pooling for the trainable subsampling, the
    second convolution connected to all channels, a linear output layer. The original takes 32 × 32 fields with the
    28 × 28 digit in the middle: so images with a side below 32 get 2 pixels of padding in the first convolution,
    and larger ones none. Both 28 × 28 and 32 × 32 images then reach the linear layers as 16 × 5 × 5; on 28 × 28
    grey images of 10 classes it has 61,470 prunable weights. Sides below 12 are refused.
    """
    check_sides("lenet-5", input_shape, 12)
    channels, *sides = input_shape
    padding = 2 if min(sides) < 32 else 0
    first, second = scaled(6, width), scaled(16, width)
    left = [((side + 2 * padding - 4) // 2 - 4) // 2 for side in sides]
    return sequential(
        [
            nn.Conv2d(channels, first, 5, padding=padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            *dense([second * prod(left), scaled(120, width), scaled(84, width), classes]),
        ]
    )
