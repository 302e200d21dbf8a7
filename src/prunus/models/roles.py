"""What a weight is for: papers prune convolutions, hidden and output layers at different rates."""

from typing import Literal

from torch import nn

from prunus.core.errors import Invalid, nearest
from prunus.core.params import owners, prunable

Kind = Literal["conv", "fc", "output"]


def output_layer(model: nn.Module) -> str:
    """The state_dict name of the weight that feeds the outputs.

    This is the last prunable weight in the order in which modules were registered; a model that registers its
    layers in another order than it runs them needs its output layer named by hand.

    Raises:
        Invalid: if the model has no prunable weight.
    """
    names = list(prunable(model))
    if not names:
        raise Invalid(f"{type(model).__name__} has no linear or convolution layer, so no output layer")
    return names[-1]


def kind_of(model: nn.Module, name: str) -> Kind:
    """The kind of the parameter `name`: of the output layer, of a convolution, or else `"fc"`.

    Args:
        model: any `nn.Module`.
        name: a state_dict name of one of its parameters.

    Raises:
        Invalid: if the model has no parameter of that name.
    """
    every = dict(model.named_parameters(remove_duplicate=False))
    if name not in every:
        raise Invalid(f"the model has no parameter {name!r}; {nearest(name, every)}")
    if every[name] is every[output_layer(model)]:
        return "output"
    holders = [module for module, _ in owners(model, every[name])]
    return "conv" if any(isinstance(module, nn.modules.conv._ConvNd) for module in holders) else "fc"
