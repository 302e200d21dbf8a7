"""ResNet-18 and -50, and ResNet-20, -32 and -56 for CIFAR: Deep residual learning for image recognition, 2016, CVPR.

ResNet-18 and -50 have four stages of 64, 128, 256 and 512 channels (times 4 at the ends of the blocks of ResNet-50).
The stem of images with a side below 128 is a 3 × 3 convolution, as the pruning literature has it for CIFAR and Tiny
ImageNet; that of larger ones is the paper's for ImageNet, 7 × 7 with stride 2 and 3 × 3 max-pooling with stride 2.
Where a stage begins with other channels or another size, the shortcut is a 1 × 1 convolution with BatchNorm (option
B). In the blocks of ResNet-50 the 3 × 3 convolution has the stride; in the paper it is the first 1 × 1 one, and nearly
all code since has moved it.

ResNet-20, -32 and -56 have three stages of 16, 32 and 64 channels, and shortcuts without weights: every second pixel,
and zeros for the added channels (option A).

Convolutions are drawn Kaiming normal by their outputs, and BatchNorm starts with weight 1 and bias 0. The paper says
no more about the linear layer: its weights are uniform in ±1 / √inputs, the range that PyTorch's layers start in, and
its bias is zero (in PyTorch it is drawn from the same range). A side has to be at least as large as all strides after
the stem together: 8 for ResNet-18 and -50, 4 for the others.
"""

from collections.abc import Callable, Sequence

from torch import nn

from prunus.models.blocks import (
    Residual,
    classifier,
    convolution,
    is_large,
    padding,
    projection,
    residual_start,
    stage,
    stages,
)
from prunus.models.initial import initialised_by
from prunus.models.layers import Shape, check_sides, scaled, sequential

#: Makes a block from the channels before and after it, its stride, and the factor on its channels.
Block = Callable[[int, int, int, float], nn.Module]


@initialised_by(residual_start)
def resnet_18(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """Four stages of two blocks of 64 to 512 channels; 11.2 M parameters on CIFAR-10."""
    check_sides("resnet-18", input_shape, 8, "its strides leave no whole pixel")
    parts = residual_stages(64, [64, 128, 256, 512], [2, 2, 2, 2], _projected, width)
    return with_stem(input_shape, parts, 512, classes, width)


@initialised_by(residual_start)
def resnet_50(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """Four stages of 3, 4, 6 and 3 bottlenecks of 256 to 2,048 channels; 25.6 M parameters on ImageNet."""
    check_sides("resnet-50", input_shape, 8, "its strides leave no whole pixel")
    parts = residual_stages(64, [256, 512, 1024, 2048], [3, 4, 6, 3], bottleneck(4), width)
    return with_stem(input_shape, parts, 2048, classes, width)


@initialised_by(residual_start)
def resnet_20(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """For CIFAR: three stages of three blocks of 16 to 64 channels; 0.27 M parameters."""
    return _cifar("resnet-20", 3, input_shape, classes, width)


@initialised_by(residual_start)
def resnet_32(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """For CIFAR: three stages of five blocks of 16 to 64 channels; 0.46 M parameters."""
    return _cifar("resnet-32", 5, input_shape, classes, width)


@initialised_by(residual_start)
def resnet_56(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """For CIFAR: three stages of nine blocks of 16 to 64 channels; 0.85 M parameters."""
    return _cifar("resnet-56", 9, input_shape, classes, width)


def residual_stages(
    before: int, channels: Sequence[int], counts: Sequence[int], block: Block, width: float
) -> list[nn.Module]:
    """One stage for each of `channels`, of as many blocks; from the second on, a stage halves the image."""
    made: list[nn.Module] = []
    for i, (after, count) in enumerate(zip(channels, counts, strict=True)):
        first = block(before, after, 2 if i else 1, width)
        made.append(stage([first, *(block(after, after, 1, width) for _ in range(count - 1))]))
        before = after
    return made


def bottleneck(ratio: int) -> Block:
    """Blocks of 1 × 1, 3 × 3 and 1 × 1 convolutions, the inner ones of `1 / ratio` of the channels."""

    def block(before: int, after: int, stride: int, width: float) -> Residual:
        outer, inner, last = (scaled(channels, width) for channels in (before, after // ratio, after))
        branch = [
            *(convolution(outer, inner, 1), nn.BatchNorm2d(inner), nn.ReLU()),
            *(convolution(inner, inner, 3, stride), nn.BatchNorm2d(inner), nn.ReLU()),
            *(convolution(inner, last, 1), nn.BatchNorm2d(last)),
        ]
        changes = stride > 1 or before != after
        return Residual(sequential(branch), projection(outer, last, stride) if changes else None, nn.ReLU())

    return block


def with_stem(
    input_shape: Shape, parts: Sequence[nn.Module], channels: int, classes: int, width: float
) -> nn.Sequential:
    """The stages between the stem that the image's size asks for and the linear layer."""
    hidden = scaled(64, width)
    if is_large(input_shape):
        first, pool = nn.Conv2d(input_shape[0], hidden, 7, 2, padding=3, bias=False), [nn.MaxPool2d(3, 2, padding=1)]
    else:
        first, pool = convolution(input_shape[0], hidden, 3), []
    stem = sequential([first, nn.BatchNorm2d(hidden), nn.ReLU(), *pool])
    return classifier({"stem": stem, **stages(parts)}, scaled(channels, width), classes)


def _cifar(name: str, count: int, input_shape: Shape, classes: int, width: float) -> nn.Sequential:
    check_sides(name, input_shape, 4, "its strides leave no whole pixel")
    hidden = scaled(16, width)
    stem = sequential([convolution(input_shape[0], hidden, 3), nn.BatchNorm2d(hidden), nn.ReLU()])
    parts = residual_stages(16, [16, 32, 64], [count] * 3, _padded, width)
    return classifier({"stem": stem, **stages(parts)}, scaled(64, width), classes)


def _projected(before: int, after: int, stride: int, width: float) -> Residual:
    return _basic(before, after, stride, width, projection)


def _padded(before: int, after: int, stride: int, width: float) -> Residual:
    return _basic(before, after, stride, width, padding)


def _basic(
    before: int, after: int, stride: int, width: float, shortcut: Callable[[int, int, int], nn.Module]
) -> Residual:
    # whether a block changes its channels is a matter of the network, not of how their numbers round at a width
    changes = stride > 1 or before != after
    first, last = scaled(before, width), scaled(after, width)
    branch = [
        *(convolution(first, last, 3, stride), nn.BatchNorm2d(last), nn.ReLU()),
        *(convolution(last, last, 3), nn.BatchNorm2d(last)),
    ]
    return Residual(sequential(branch), shortcut(first, last, stride) if changes else None, nn.ReLU())
