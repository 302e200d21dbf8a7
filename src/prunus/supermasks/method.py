"""`Method`: what a way to learn masks says about itself. The engine does the rest.

A method answers four questions: what is learned, how a mask comes out of it, what gradient absent entries get, and
what changes over time. Each is one function here; most methods say two or three.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import ClassVar

import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid
from prunus.supermasks.layer import MaskedWeight, Whole
from prunus.supermasks.part import Part
from prunus.supermasks.through import Through


class Method:
    """The default of each answer: weights frozen, a mask made after each step, scores that get g · w.

    Attributes:
        learns_weights: whether the weights are trained too; else all parameters but the scores are frozen.
        fixes_statistics: whether norm layers keep the statistics that they have, also in training.
        joint: whether the masks of all layers are made together.
    """

    learns_weights: ClassVar[bool] = False
    fixes_statistics: ClassVar[bool] = False

    @property
    def target(self) -> float | None:
        """The density in the end; None where it is an outcome."""
        return None

    @property
    def joint(self) -> bool:
        """Whether the masks of all layers are made together."""
        return False

    def check(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Refuse options that do not fit these weights.

        Raises:
            Invalid: if they do not.
        """

    def begin(self, weight: Tensor, generator: torch.Generator, /) -> Tensor | None:
        """The first scores of a weight, of its shape, type and device; None where the weights are the scores."""
        raise NotImplementedError

    def join(self, layer: MaskedWeight) -> None:
        """Give a layer what it needs beside its scores."""

    def stepped(self, supermask: Whole) -> None:
        """What changes after a step of the optimizer; `supermask.step_count` counts it already."""

    def write(self, layers: Sequence[MaskedWeight]) -> None:
        """Write what stands in place of each weight into its layer: the `mask` of its own on each weight."""
        for layer in layers:
            weight = layer.weight
            torch.where(layer.mask(), weight, weight.new_zeros(()), out=layer.place())

    def forward(self, layer: MaskedWeight, weight: Tensor) -> Tensor:
        """What stands in place of `weight`, with its gradients."""
        layer.supermask.refresh_if_stale(layer)
        assert layer.effective is not None
        return Through.apply(layer.scores, weight, layer.effective)  # type: ignore[return-value]

    def mask(self, layer: MaskedWeight) -> Tensor:
        """The mask of a layer now, a bool tensor of its own."""
        raise NotImplementedError

    def part(self, layer: MaskedWeight) -> Part:
        """The mask of a layer now, and how what stands in place of the weight comes from the weight."""
        return Part(layer.mask().to(torch.int8))

    def masks(self, layers: Sequence[MaskedWeight]) -> list[Tensor]:
        """The masks of layers now, of all of them where they are made together."""
        return [self.mask(layer) for layer in layers]

    def parts(self, layers: Sequence[MaskedWeight]) -> list[Part]:
        """The parts of layers now, of all of them where they are made together."""
        return [self.part(layer) for layer in layers]


def uniform_scores(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Scores drawn from U(−1/√fan_in, 1/√fan_in), the range that PyTorch's own layers start in."""
    fan_in = max(1, weight.shape[1:].numel() if weight.dim() > 1 else weight.numel())
    bound = fan_in**-0.5
    draws = torch.empty(weight.shape).uniform_(-bound, bound, generator=generator)
    return torch.empty_like(weight, requires_grad=False).copy_(draws)


def check_positive(name: str, value: int | None) -> None:
    """Refuse what is no whole number from 1.

    Raises:
        Invalid: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Invalid(f"{name} is {value!r}; allowed: a whole number from 1")


def check_finite(name: str, value: float) -> None:
    """Refuse what is no finite number.

    Raises:
        Invalid: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise Invalid(f"{name} is {value!r}; allowed: a finite number")


def check_flag(name: str, value: bool) -> None:
    """Refuse what is neither True nor False.

    Raises:
        Invalid: if it is not.
    """
    if not isinstance(value, bool):
        raise Invalid(f"{name} is {value!r}; allowed: True or False")
