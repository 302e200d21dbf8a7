"""Frozen weights through training: `hold_frozen` keeps them at their value, as `prunus.apply` keeps others at zero."""

from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from prunus.core.apply import masks_of
from prunus.core.errors import Invalid
from prunus.tickets.mask_actions import Start
from prunus.tickets.mask_criteria import check_weights


def hold_frozen(model: nn.Module, start: Start) -> "Hold":
    """Put the frozen weights of `start` into `model`, and hold them at their value through training.

    Load `start.weights` first. It works as `prunus.apply` does for zeros: the gradient of a frozen weight is zeroed as
    soon as it is there, and whatever a step of any `torch.optim.Optimizer` did to a frozen weight (weight decay,
    momentum) is undone bit for bit after it. Frozen weights are no masks: `prunus.masks_of` does not see them, and
    `prunus.apply` to the same weights would zero them. Copies of the model (deepcopy, pickle) hold nothing, and what a
    state_dict that is loaded later puts there counts until the next step.

    Args:
        model: any `nn.Module` with the parameters of `start.trainable`.
        start: what `started` gave.

    Raises:
        Invalid: if a name or shape differs, a weight takes no gradient, or it is held or masked already. Nothing has
            been changed then.
    """
    every = dict(model.named_parameters())
    check_weights("model", every, start.trainable)
    check_weights("start.weights", start.weights, start.trainable)
    _check_free(model, {name: every[name] for name in start.trainable})
    if not _watching:
        _watching.append(register_optimizer_step_post_hook(_after_step))
    return Hold([_hold(every[n], start.weights[n], trained) for n, trained in start.trainable.items()])


@dataclass(frozen=True, eq=False)
class Hold:
    """The frozen weights of one `hold_frozen`."""

    _handles: list[RemovableHandle]

    def remove(self) -> None:
        """Let the frozen weights go; they stay as they are and may move again. Calling it again does nothing."""
        for handle in self._handles:
            handle.remove()


class _Frozen:
    """The frozen weights of a parameter, and its gradient hook.

    Both are integers as wide as the weights: `keep` has all bits set where a weight is trained and none elsewhere,
    `values` has the bits of what is frozen. Weights are put back by "and" and "or", which is exact whatever stands
    there. On one CPU thread `torch.where` takes several times as long.
    """

    def __init__(self, parameter: Tensor, trained: Tensor, values: Tensor) -> None:
        self._lay_out(parameter, trained.to(parameter.device), values)

    def __call__(self, parameter: Tensor) -> None:
        """Zero the gradient of what is frozen, also for clipping and moments."""
        gradient = parameter.grad
        if gradient is None or gradient.is_sparse or gradient.requires_grad:  # not to be written to; values hold anyway
            return
        self._follow(parameter)
        gradient.view(self.keep.dtype).bitwise_and_(self.keep)

    def write(self, parameter: Tensor) -> None:
        """Put the frozen weights back (call it under `no_grad`)."""
        self._follow(parameter)
        parameter.view(self.keep.dtype).bitwise_and_(self.keep).bitwise_or_(self.values)

    def _follow(self, parameter: Tensor) -> None:
        # the model may have moved to another device or dtype since
        if (parameter.dtype, parameter.device) != (self.dtype, self.keep.device):
            self._lay_out(parameter, (self.keep != 0).to(parameter.device), self.values.view(self.dtype))

    def _lay_out(self, like: Tensor, trained: Tensor, values: Tensor) -> None:
        self.dtype = like.dtype
        integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[like.element_size()]
        self.keep = trained.to(integers).neg_()  # −1 has all bits set
        self.values = values.detach().to(like).masked_fill(trained, 0).view(integers)


#: What is frozen, by the id of its parameter, whose hook keeps it alive.
_frozen: WeakValueDictionary[int, _Frozen] = WeakValueDictionary()
_watching: list[RemovableHandle] = []


@torch.no_grad()
def _after_step(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            frozen = _frozen.get(id(parameter))
            if frozen is not None:
                frozen.write(parameter)


@torch.no_grad()
def _hold(parameter: nn.Parameter, values: Tensor, trained: Tensor) -> RemovableHandle:
    frozen = _frozen[id(parameter)] = _Frozen(parameter, trained, values)
    frozen.write(parameter)
    frozen(parameter)
    return parameter.register_post_accumulate_grad_hook(frozen)


def _check_free(model: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
    try:
        masks = masks_of(model)
    except Invalid:  # there are none
        masks = {}
    for name, parameter in parameters.items():
        if name in masks:
            raise Invalid(f"{name} is held at zero by a mask: prunus.release(model) first")
        if id(parameter) in _frozen:
            raise Invalid(f"{name} is held already: remove what hold_frozen gave before")
        if not parameter.requires_grad:
            raise Invalid(f"{name} takes no gradient; allowed: weights that are trained")
