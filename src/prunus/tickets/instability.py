"""Instability analysis: is the outcome of training settled at its starting point, whatever the order of the data?

J. Frankle, G. K. Dziugaite, D. M. Roy and M. Carbin, *Linear Mode Connectivity and the Lottery Ticket Hypothesis*,
ICML 2020. Two copies of a network are trained from one point and differ in data order alone. With E_α the error at
(1 − α)·W₁ + α·W₂, the error barrier is max over α of E_α, less the mean of E at the two ends; the paper calls a network
stable where it is below 2 percentage points. The running statistics of BatchNorm belong to neither network between
the ends: by default they are interpolated like weights, and `refresh` recomputes them at each point.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import inf, isnan
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core.apply import release
from prunus.core.errors import Invalid
from prunus.tickets.ticket import Ticket, snapshot

#: A state_dict.
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Barrier:
    """The errors along the line between two networks: `errors[i]` at `alphas[i]`, from 0 (the first) to 1."""

    alphas: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def height(self) -> float:
        """The greatest E_α − (E₀ + E₁) / 2, at least 0, in the unit of the errors; infinite where an error is NaN.

        Both ends are among the E_α, so ends that differ give a height of their own: half their difference.
        """
        if any(isnan(error) for error in self.errors):
            return inf
        return max(self.errors) - (self.errors[0] + self.errors[-1]) / 2

    @property
    def stable(self) -> bool:
        """Whether the barrier is below 0.02, the paper's two percentage points, for errors that are fractions."""
        return self.height < 0.02


def error_barrier(
    model: nn.Module,
    first: State,
    second: State,
    error: Callable[[nn.Module], float],
    *,
    points: int = 30,
    refresh: Callable[[nn.Module], Any] | None = None,
) -> Barrier:
    """The errors on the straight line between two state_dicts of `model`.

    Args:
        model: of the architecture of both; a copy of it is used.
        first: α = 0.
        second: α = 1.
        error: of a model, as a fraction in [0, 1] (or any number: the barrier is in its unit).
        points: evenly spaced values of α, both ends among them; at least 2.
        refresh: recomputes what does not interpolate (BatchNorm's running statistics) before each `error`.

    Raises:
        Invalid: if the two are not of one architecture, or there are fewer than 2 points.
    """
    if not isinstance(points, int) or points < 2:
        raise Invalid(f"points is {points}; allowed: a whole number of at least 2")
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in (first, second)]
    if shapes[0] != shapes[1]:
        differing = next(n for n in (*shapes[0], *shapes[1]) if shapes[0].get(n) != shapes[1].get(n))
        raise Invalid(f"the two networks differ in {differing!r}: there is no line between them")
    alphas = tuple(i / (points - 1) for i in range(points))
    errors: list[float] = []
    between = deepcopy(model)
    release(between)
    for alpha in alphas:
        between.load_state_dict({name: _between(first[name], second[name], alpha) for name in first})
        if refresh:
            refresh(between)
        errors.append(float(error(between)))
    return Barrier(alphas, tuple(errors))


def instability(
    model: nn.Module,
    start: Ticket,
    train: Callable[[nn.Module, int], Any],
    error: Callable[[nn.Module], float],
    *,
    orders: tuple[int, int] = (0, 1),
    points: int = 30,
    refresh: Callable[[nn.Module], Any] | None = None,
) -> Barrier:
    """Train two copies from `start` that differ in the order of the data, and measure the barrier between them.

    Args:
        model: of the ticket's architecture; copies of it are trained.
        start: where both begin; the same masks in both, so the line never leaves them.
        train: `train(model, order)`, with `order` the seed of the data order (and of augmentation and dropout).
        error: see `error_barrier`.
        orders: the two seeds.
        points: see `error_barrier`.
        refresh: see `error_barrier`.
    """
    if orders[0] == orders[1]:
        raise Invalid(f"orders is {orders}; allowed: two different seeds")
    ends: list[State] = []
    for order in orders:
        trained = deepcopy(model)
        start.install(trained)
        train(trained, order)
        ends.append(snapshot(trained))
    return error_barrier(model, ends[0], ends[1], error, points=points, refresh=refresh)


def _between(first: Tensor, second: Tensor, alpha: float) -> Tensor:
    # counters, and both ends themselves, are taken as they are: 0 · inf would be NaN
    if alpha == 0 or not first.is_floating_point():
        return first
    return second if alpha == 1 else torch.lerp(first, second.to(first.device), alpha)
