"""MobileNetV1 and V2, networks of depthwise separable convolutions.

V1: MobileNets: efficient convolutional neural networks for mobile vision applications, 2017, arXiv. V2: MobileNetV2:
inverted residuals and linear bottlenecks, 2018, CVPR. `width` is the papers' width multiplier, on all hidden channels
(the authors' code rounds them to multiples of 8, and leaves the last convolution of V2 alone below 1).

The first convolution has stride 2 as in the papers for images with sides of at least 128, and stride 1 for smaller
ones, so that a 32 × 32 image still has 2 × 2 pixels at the end. Smaller sides than 16 are refused.

The papers do not say how the weights start; the authors' code draws all from a truncated normal of standard deviation
0.09. Here convolutions start Kaiming normal by their inputs (9 for each unit of a depthwise one), the linear layer
normal with a standard deviation of 0.01 and its bias zero, BatchNorm with weight 1 and bias 0. Kaiming normal by the
outputs, which is common in PyTorch, counts those of all groups: depthwise weights are then so small that a fresh V1 in
evaluation mode gives 1e-19 for random images, and gradients that are as small.
"""

from functools import partial

from torch import nn

from prunus.models.blocks import Residual, classifier, convolution, is_large, stage, stages
from prunus.models.initial import initialise, initialised_by
from prunus.models.layers import Shape, check_sides, scaled, sequential

#: Channels and stride of the blocks of V1; for the last one the paper prints a stride of 2, which 7 × 7 pixels at its
#: input and output rule out.
_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))

#: Expansion, channels, number of blocks and first stride of the stages of V2.
_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

_start = partial(initialise, scheme="kaiming-normal", linear="small-normal")


@initialised_by(_start)
def mobilenet_v1(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """13 depthwise separable convolutions of 64 to 1,024 channels; 4.2 M parameters on ImageNet."""
    check_sides("mobilenet-v1", input_shape, 16, "its strides leave no whole pixel")
    before = scaled(32, width)
    stem = sequential(_convolved(input_shape[0], before, 3, _first_stride(input_shape), act=nn.ReLU))
    blocks: list[nn.Module] = []
    for channels, stride in _V1:
        after = scaled(channels, width)
        depthwise = _convolved(before, before, 3, stride, groups=before, act=nn.ReLU)
        blocks.append(sequential([*depthwise, *_convolved(before, after, 1, act=nn.ReLU)]))
        before = after
    return classifier({"stem": stem, "blocks": stage(blocks)}, before, classes)


@initialised_by(_start)
def mobilenet_v2(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """17 inverted residual blocks of 16 to 320 channels, with ReLU6; 3.5 M parameters on ImageNet.

    Dropout of 0.2 before the linear layer, as in the authors' code.
    """
    check_sides("mobilenet-v2", input_shape, 16, "its strides leave no whole pixel")
    before = scaled(32, width)
    stem = sequential(_convolved(input_shape[0], before, 3, _first_stride(input_shape)))
    parts: list[nn.Module] = []
    for expansion, channels, count, stride in _V2:
        after = scaled(channels, width)
        first = _inverted(before, after, expansion, stride)
        parts.append(stage([first, *(Residual(_inverted(after, after, expansion, 1)) for _ in range(count - 1))]))
        before = after
    last = scaled(1280, width)
    end = sequential(_convolved(before, last, 1))
    return classifier({"stem": stem, **stages(parts), "end": end}, last, classes, dropout=0.2)


def _first_stride(input_shape: Shape) -> int:
    return 2 if is_large(input_shape) else 1


def _convolved(
    before: int, after: int, field: int, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU6
) -> list[nn.Module]:
    return [convolution(before, after, field, stride, groups), nn.BatchNorm2d(after), act()]


def _inverted(before: int, after: int, expansion: int, stride: int) -> nn.Sequential:
    inner = before * expansion
    widen = _convolved(before, inner, 1) if expansion > 1 else []
    depthwise = _convolved(inner, inner, 3, stride, groups=inner)
    return sequential([*widen, *depthwise, convolution(inner, after, 1), nn.BatchNorm2d(after)])
