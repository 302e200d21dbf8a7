"""What the deeper convolutional networks share: residual blocks, shortcuts, stems, and the usual end."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial

from torch import Tensor, nn

from prunus.models.initial import initialise
from prunus.models.layers import Shape, sequential

#: The side from which an image gets the stem that the networks have for ImageNet.
LARGE = 128

#: Convolutions Kaiming normal by their outputs, linear layers uniform in ±1 / √inputs, as the residual networks start.
residual_start = partial(initialise, scheme="kaiming-out-normal", linear="pytorch-uniform")


class Residual(nn.Module):
    """A branch and a shortcut around it, added up.

    Args:
        branch: the layers that are gone around.
        shortcut: what goes around them. Default: the identity.
        activation: what the sum goes through. Default: the identity.
    """

    def __init__(
        self, branch: nn.Module, shortcut: nn.Module | None = None, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        self.activation = nn.Identity() if activation is None else activation

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same, or to what branch and shortcut both make of it."""
        return self.activation(self.branch(x) + self.shortcut(x))


def convolution(before: int, after: int, field: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias, padded so that a stride of 1 keeps the size of the image."""
    return nn.Conv2d(before, after, field, stride, padding=field // 2, groups=groups, bias=False)


def projection(before: int, after: int, stride: int) -> nn.Sequential:
    """A shortcut with weights: a 1 × 1 convolution and BatchNorm (option B of the residual networks)."""
    return sequential([convolution(before, after, 1, stride), nn.BatchNorm2d(after)])


def padding(before: int, after: int, stride: int) -> nn.Sequential:
    """A shortcut without weights: every `stride`-th pixel, and zeros for the channels that are added (option A)."""
    pick, pad = nn.AvgPool2d(1, stride), nn.ZeroPad3d((0, 0, 0, 0, 0, after - before))
    return nn.Sequential(OrderedDict(pick=pick, pad=pad))


def is_large(input_shape: Shape) -> bool:
    """Whether both sides have at least `LARGE` pixels."""
    return min(input_shape[1:]) >= LARGE


def stage(blocks: Sequence[nn.Module]) -> nn.Sequential:
    """The blocks in order: block1, block2, …."""
    return nn.Sequential(OrderedDict((f"block{i}", block) for i, block in enumerate(blocks, 1)))


def stages(parts: Sequence[nn.Module]) -> dict[str, nn.Module]:
    """The names of the stages: stage1, stage2, …."""
    return {f"stage{i}": part for i, part in enumerate(parts, 1)}


def classifier(parts: Mapping[str, nn.Module], channels: int, classes: int, dropout: float = 0.0) -> nn.Sequential:
    """The parts in order, then the mean over the image and one linear layer, with dropout before it if any."""
    end: OrderedDict[str, nn.Module] = OrderedDict(mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    if dropout:
        end["dropout"] = nn.Dropout(dropout)
    end["fc"] = nn.Linear(channels, classes)
    return nn.Sequential(OrderedDict(parts) | end)
