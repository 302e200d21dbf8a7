"""What the models are put together from."""

from collections import OrderedDict
from itertools import pairwise

from torch import nn

from prunus.core.errors import Invalid

Shape = tuple[int, int, int]


def scaled(units: int, width: float) -> int:
    """`units × width`, rounded, at least 1."""
    return max(1, round(units * width))


def sequential(layers: list[nn.Module]) -> nn.Sequential:
    """The layers in order, each named by its kind and its number within the kind: conv1, relu1, pool1, fc1, …."""
    kinds = {
        nn.Conv2d: "conv",
        nn.Linear: "fc",
        nn.ReLU: "relu",
        nn.ReLU6: "relu",
        nn.MaxPool2d: "pool",
        nn.BatchNorm2d: "bn",
        nn.Dropout: "dropout",
    }
    counts: dict[str, int] = {}
    named: OrderedDict[str, nn.Module] = OrderedDict()
    for layer in layers:
        if kind := kinds.get(type(layer)):
            counts[kind] = counts.get(kind, 0) + 1
            named[f"{kind}{counts[kind]}"] = layer
        else:
            named[type(layer).__name__.lower()] = layer
    return nn.Sequential(named)


def dense(units: list[int], dropout: float = 0.0) -> list[nn.Module]:
    """Flatten, then linear layers from `units[0]` to `units[-1]` with ReLU, and dropout if any, between them."""
    layers: list[nn.Module] = [nn.Flatten()]
    between = [nn.ReLU, *([lambda: nn.Dropout(dropout)] if dropout else [])]
    for i, (before, after) in enumerate(pairwise(units)):
        layers += [make() for make in between] if i else []
        layers.append(nn.Linear(before, after))
    return layers


def check_sides(model: str, input_shape: Shape, smallest: int, cause: str = "its pooling leaves nothing") -> None:
    """Refuse an image of which a side is smaller than the model can take, and say the `cause`.

    Raises:
        Invalid: if height or width is below `smallest`.
    """
    if min(input_shape[1:]) < smallest:
        size = "×".join(map(str, input_shape))
        raise Invalid(
            f"model {model!r} cannot take {size} images: {cause} of a side below {smallest}; "
            f"allowed: height and width of at least {smallest}"
        )
