"""Norm layers that keep their statistics while the rest of the network trains."""

from collections.abc import Iterator

from torch import nn


def _norms(model: nn.Module) -> Iterator[nn.Module]:
    return (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase))


def fix_statistics(model: nn.Module) -> None:
    """Have norm layers use the statistics that they have, and keep them, in training too."""
    for norm in _norms(model):
        norm.register_forward_pre_hook(_stay_in_evaluation)


def free_statistics(model: nn.Module) -> None:
    """The inverse: norm layers are again in the mode of the model."""
    for norm in _norms(model):
        hooks = norm._forward_pre_hooks
        for key in [key for key, hook in hooks.items() if hook is _stay_in_evaluation]:
            del hooks[key]
            norm.training = model.training


def _stay_in_evaluation(module: nn.Module, _inputs: object) -> None:
    module.training = False
