"""Wide residual networks: Wide residual networks, 2016, BMVC.

WRN-d-k for CIFAR has three stages of (d − 4) / 6 blocks of 16 k, 32 k and 64 k channels after a 3 × 3 convolution of
16. The blocks are pre-activated: BatchNorm and ReLU stand before each of the two 3 × 3 convolutions, and once more
before the mean over the image. Where a stage begins, the shortcut is a 1 × 1 convolution without BatchNorm, which takes
the activated input of the block, as in the authors' code. There is no dropout, which the paper has as an option.

Wide-ResNet-50-2 for ImageNet is ResNet-50 with twice the channels inside the bottlenecks, and takes any image as that
does.

Convolutions are drawn Kaiming normal by their outputs, BatchNorm starts with weight 1 and bias 0; the linear layer is
uniform in ±1 / √inputs, with zero bias: all of it as in the authors' code. Sides below 4 (8 for Wide-ResNet-50-2) are
refused.
"""

from torch import Tensor, nn

from prunus.models.blocks import classifier, convolution, residual_start, stages
from prunus.models.initial import initialised_by
from prunus.models.layers import Shape, check_sides, scaled, sequential
from prunus.models.resnet import bottleneck, residual_stages, with_stem


class PreActivation(nn.Module):
    """BatchNorm, ReLU and a 3 × 3 convolution, twice, and a shortcut around them.

    Args:
        before: channels of the input.
        after: channels of the output.
        stride: stride of the first convolution, and of the shortcut.
        projects: whether the shortcut is a convolution of the activated input, and not the input itself.
    """

    def __init__(self, before: int, after: int, stride: int, projects: bool) -> None:
        super().__init__()
        self.start = sequential([nn.BatchNorm2d(before), nn.ReLU()])
        self.branch = sequential(
            [convolution(before, after, 3, stride), nn.BatchNorm2d(after), nn.ReLU(), convolution(after, after, 3)]
        )
        self.shortcut = convolution(before, after, 1, stride) if projects else nn.Identity()
        self.projects = projects

    def forward(self, x: Tensor) -> Tensor:
        """(batch, before, height, width) to (batch, after, height / stride, width / stride)."""
        activated = self.start(x)
        return self.branch(activated) + self.shortcut(activated if self.projects else x)


@initialised_by(residual_start)
def wrn_16_8(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """For CIFAR: three stages of two wide blocks of 128 to 512 channels; 11.0 M parameters."""
    return _wide("wrn-16-8", 16, 8, input_shape, classes, width)


@initialised_by(residual_start)
def wrn_22_2(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """For CIFAR: three stages of three wide blocks of 32 to 128 channels; 1.1 M parameters."""
    return _wide("wrn-22-2", 22, 2, input_shape, classes, width)


@initialised_by(residual_start)
def wrn_22_8(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """For CIFAR: three stages of three wide blocks of 128 to 512 channels; 17.2 M parameters."""
    return _wide("wrn-22-8", 22, 8, input_shape, classes, width)


@initialised_by(residual_start)
def wrn_28_10(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """For CIFAR: three stages of four wide blocks of 160 to 640 channels; 36.5 M parameters."""
    return _wide("wrn-28-10", 28, 10, input_shape, classes, width)


@initialised_by(residual_start)
def wide_resnet_50_2(input_shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """ResNet-50 with bottlenecks of twice the channels; 68.9 M parameters on ImageNet."""
    check_sides("wide-resnet-50-2", input_shape, 8, "its strides leave no whole pixel")
    parts = residual_stages(64, [256, 512, 1024, 2048], [3, 4, 6, 3], bottleneck(2), width)
    return with_stem(input_shape, parts, 2048, classes, width)


def _wide(name: str, depth: int, factor: int, input_shape: Shape, classes: int, width: float) -> nn.Sequential:
    check_sides(name, input_shape, 4, "its strides leave no whole pixel")
    stem = sequential([convolution(input_shape[0], scaled(16, width), 3)])
    channels = [16 * factor, 32 * factor, 64 * factor]
    parts = residual_stages(16, channels, [(depth - 4) // 6] * 3, _block, width)
    last = scaled(channels[-1], width)
    end = sequential([nn.BatchNorm2d(last), nn.ReLU()])
    return classifier({"stem": stem, **stages(parts), "end": end}, last, classes)


def _block(before: int, after: int, stride: int, width: float) -> PreActivation:
    return PreActivation(scaled(before, width), scaled(after, width), stride, stride > 1 or before != after)
