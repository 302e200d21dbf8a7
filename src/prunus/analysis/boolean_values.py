"""The values that `Boolean` computes with, and how they are multiplied and added.

A tensor that is followed (requires a gradient) holds 1 where a path arrives; `OPEN` where none does, but it is not
zero; 0 where nothing is; and less than `SHUT` where attention is hidden.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

#: What is larger is a path; what is smaller, but not zero, is `OPEN`.
PATH, OPEN = 1e-9, 1e-20
#: What is below this is hidden by an attention mask.
SHUT = -1e3

Rule = Callable[..., Any]


class _Flags(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        return torch.where(values > PATH, 1.0, values.clamp(max=OPEN))

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (gradient > PATH).to(gradient.dtype)


def flags(values: Tensor) -> Tensor:
    """The values of a path in place of sums and products of them, and of their gradients."""
    return _Flags.apply(values) if values.requires_grad and values.is_floating_point() else values


def level(value: Any) -> Any:
    """What is added without being followed: no path, but not zero."""
    if not isinstance(value, Tensor):
        return OPEN * bool(value)
    if value.requires_grad:
        return value
    there = (value != 0) * OPEN
    return torch.where(value < SHUT, value, there.to(value.dtype)) if value.is_floating_point() else there


def product(*parts: Tensor, by: Rule) -> Tensor:
    """A path through one factor goes on where the others are not zero; beside a weight, `OPEN` stays no path."""
    shut = [part if _is_weight(part) else (part.detach() != 0).to(part.dtype) for part in parts]
    moving = [i for i, part in enumerate(parts) if part.requires_grad and not _is_weight(part)]
    if not moving:
        return by(*shut)
    if any(_is_weight(part) for part in parts):
        return by(*(part if part.requires_grad else shut[i] for i, part in enumerate(parts)))
    terms = [by(*(part if j == i else shut[j] for j, part in enumerate(parts))) for i in moving]
    return reduce(torch.add, terms)


def _is_weight(tensor: Tensor) -> bool:
    return tensor.requires_grad and (tensor.is_leaf or (tensor._base is not None and tensor._base.is_leaf))


def weighted(input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, by: Rule, **kwargs: Any) -> Tensor:
    """A linear layer or a convolution."""
    weight = weight if weight.requires_grad else (weight != 0).to(weight.dtype)
    return by(input, weight, bias if bias is not None and bias.requires_grad else None, *args, **kwargs)
