"""Patterns: which masks a layer may have. A pattern cuts a weight into groups and keeps the same number in each.

| pattern | groups |
| --- | --- |
| none | one: the whole layer |
| N:M | M weights in a row along the inputs, N of them kept; 2:4 is what NVIDIA's sparse tensor cores take |
| constant fan-in | the incoming weights of each output unit |

Constant fan-in is that of Lasby et al., "Dynamic sparse training with structured sparsity", 2024, ICLR.
"""

import re
from dataclasses import dataclass
from math import isclose
from typing import Protocol

import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid


class Pattern(Protocol):
    """Groups of the weights of a layer, with the same number kept in each."""

    @property
    def density(self) -> float | None:
        """The density of every layer, where the pattern leaves no choice."""
        ...

    def width(self, name: str, weight: Tensor, axis: int) -> int:
        """How many weights a group of the layer has.

        Raises:
            Invalid: if the layer cannot be cut into groups.
        """
        ...

    def each(self, name: str, width: int, density: float) -> int:
        """How many weights each group keeps, at most, for a layer of that density.

        Raises:
            Invalid: if the groups cannot have that density.
        """
        ...


@dataclass(frozen=True)
class NM:
    """`n` of each `m` weights in a row along the inputs of a layer (its input channels, in a convolution).

    Every layer has the density n / m; one whose inputs are no multiple of m cannot have the pattern (leave it out with
    `exclude`).

    Args:
        n: kept of each group, from 1 to `m`.
        m: the size of a group.
    """

    n: int = 2
    m: int = 4

    def __str__(self) -> str:
        return f"'{self.n}:{self.m}'"

    def __post_init__(self) -> None:
        if not 1 <= self.n <= self.m:
            raise Invalid(f"pattern is '{self.n}:{self.m}'; allowed: 'n:m' with 1 ≤ n ≤ m")

    @property
    def density(self) -> float:
        """N / m."""
        return self.n / self.m

    def width(self, name: str, weight: Tensor, axis: int) -> int:
        """`m`."""
        inputs = weight.shape[1 - axis]
        if inputs % self.m:
            raise Invalid(
                f"pattern is '{self.n}:{self.m}', and {name} has {inputs} inputs, no multiple of {self.m}; "
                f"allowed: another pattern, or exclude={name!r}"
            )
        return self.m

    def each(self, name: str, width: int, density: float) -> int:
        """`n`."""
        if not isclose(density * width, self.n, rel_tol=1e-6):
            raise Invalid(
                f"density is {density:g} for {name}; allowed with pattern '{self.n}:{self.m}': {self.n / width:g}"
            )
        return self.n


@dataclass(frozen=True)
class ConstantFanIn:
    """The same number of incoming weights for each output unit or filter: ⌊density · inputs⌋."""

    def __str__(self) -> str:
        return "'fan-in'"

    @property
    def density(self) -> None:
        """Any."""

    def width(self, name: str, weight: Tensor, axis: int) -> int:  # noqa: ARG002
        """All incoming weights of a unit."""
        return weight.numel() // weight.shape[axis]

    def each(self, name: str, width: int, density: float) -> int:
        """The whole number of weights that is not above the density."""
        if (each := int(density * width + 1e-6)) < 1:
            raise Invalid(
                f"density is {density:.3g} for {name}, less than one of the {width} weights of each unit; "
                f"allowed with a constant fan-in: at least {1 / width:.3g}"
            )
        return each


def pattern_of(pattern: "str | Pattern | None") -> Pattern | None:
    """The pattern called "n:m" (as "2:4") or "fan-in"; a pattern, or None, is itself.

    Raises:
        Invalid: if it is none.
    """
    if pattern is None or hasattr(pattern, "each"):
        return pattern  # type: ignore[return-value]
    if pattern == "fan-in":
        return ConstantFanIn()
    if isinstance(pattern, str) and (found := re.fullmatch(r"(\d+):(\d+)", pattern)):
        return NM(int(found[1]), int(found[2]))
    raise Invalid(f"pattern is {pattern!r}; allowed: none, 'n:m' as '2:4', or 'fan-in'")


def output_axis(module: nn.Module) -> int:
    """The dimension of a module's weight that its outputs are along: 0, or 1 where inputs come first."""
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd) or type(module).__name__ == "Conv1D"
    return int(transposed)


def grouped(tensor: Tensor, axis: int, width: int) -> Tensor:
    """A tensor of a weight's shape as [groups, width]: inputs innermost for N:M, all inputs of a unit for a fan-in."""
    by_unit = tensor.movedim(axis, 0)  # units, inputs, positions of a kernel
    whole = width == by_unit[0].numel()
    return (by_unit if whole else by_unit.movedim(1, -1)).reshape(-1, width)


def positions_of(shape: torch.Size, axis: int, width: int, device: torch.device) -> Tensor:
    """The row-major position of each entry of `grouped`, int64 [groups, width]."""
    return grouped(torch.arange(shape.numel(), device=device).view(shape), axis, width)


def top_of_rows(scores: Tensor, each: int) -> Tensor:
    """A bool tensor: the `each` largest scores of each row; of equal ones the first.

    Args:
        scores: [rows, width], without NaN.
        each: how many, from 0 to the width.
    """
    if each in (0, scores.shape[1]):
        return torch.full_like(scores, bool(each), dtype=torch.bool)
    last = scores.topk(each, 1).values[:, -1:]
    above, ties = scores > last, scores == last
    lacking = each - above.sum(1, keepdim=True)
    if bool((ties.sum(1, keepdim=True) > lacking).any()):  # rarely, and counting along rows is slow
        ties &= ties.cumsum(1) <= lacking
    return above | ties
