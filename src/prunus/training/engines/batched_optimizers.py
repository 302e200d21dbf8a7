"""Adam, AdamW and SGD over the parameters of many lanes, each with its own learning rate and number of steps.

All that differs from lane to lane and from step to step is computed beforehand on the host, in float64, and lies on
the device as a column for each lane: a step then needs nothing of the host. The rules are those of `torch.optim`, with
its defaults (β = 0.9 and 0.999, ε = 1e-8), rearranged where that saves a pass over the parameters.
"""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

from prunus.training.recipe import Recipe, learning_rate

#: What each optimizer keeps of every parameter, as `torch.optim` calls it.
MOMENTS = {"adam": ("exp_avg", "exp_avg_sq"), "adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}

#: How many numbers `settings` gives.
COLUMNS = 3

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


def moments_of(recipe: Recipe) -> tuple[str, ...]:
    """The moments that an optimizer keeps; SGD without momentum keeps none."""
    return () if recipe.optimizer == "sgd" and not recipe.momentum else MOMENTS[recipe.optimizer]


def settings(recipe: Recipe, iteration: int, taken: int) -> tuple[float, float, float]:
    """The numbers that `update` needs of a lane for one step.

    Args:
        recipe: resolved.
        iteration: of the learning rate's schedule.
        taken: steps that the optimizer has taken before.
    """
    rate = learning_rate(recipe, iteration)
    if recipe.optimizer == "sgd":
        return rate, recipe.momentum, recipe.weight_decay
    first, second = 1 - _BETA1 ** (taken + 1), sqrt(1 - _BETA2 ** (taken + 1))
    decay = recipe.weight_decay * (rate if recipe.optimizer == "adamw" else 1)
    # m / first / (√v / second + ε) = (second / first) · m / (√v + second · ε)
    return rate * second / first, second * _EPSILON, decay


@torch.no_grad()
def update(recipe: Recipe, weights: Tensor, gradients: Tensor, moments: Sequence[Tensor], now: Tensor) -> None:
    """Take one step, in place; the gradients are used up.

    Where weight, gradient and moments are zero they stay zero.

    Args:
        recipe: which optimizer, whether it has momentum, Nesterov's form and decay; their amounts are in `now`.
        weights: [lanes, parameters].
        gradients: the same.
        moments: one tensor of the same shape for each of `moments_of`.
        now: `settings` of each lane, [lanes, 3].
    """
    first, second, decay = now[:, :, None].unbind(1)
    if recipe.optimizer == "sgd":
        if recipe.weight_decay:
            gradients.addcmul_(weights, decay)
        if recipe.momentum:
            (buffer,) = moments
            buffer.mul_(second).add_(gradients)
            gradients = gradients.addcmul_(buffer, second) if recipe.nesterov else buffer
        weights.addcmul_(gradients, first, value=-1)
        return
    mean, square = moments
    if recipe.weight_decay and recipe.optimizer == "adam":
        gradients.addcmul_(weights, decay)
    elif recipe.weight_decay:
        weights.addcmul_(weights, decay, value=-1)
    mean.lerp_(gradients, 1 - _BETA1)
    square.mul_(_BETA2).addcmul_(gradients, gradients, value=1 - _BETA2)
    torch.sqrt(square, out=gradients).add_(second)
    torch.div(mean, gradients, out=gradients)
    weights.addcmul_(gradients, first, value=-1)
