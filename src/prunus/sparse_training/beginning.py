"""The masks that a sparse training begins with."""

from collections.abc import Callable, Mapping
from math import isclose

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunus.core.allocation import Allocation, allot
from prunus.core.errors import Invalid, nearest
from prunus.core.masks import Masks
from prunus.core.params import Globs, owners, prunable
from prunus.sparse_training.layer import largest, marked
from prunus.sparse_training.pattern import Pattern, output_axis, positions_of, top_of_rows

Weights = Mapping[str, nn.Parameter]


def trained_weights(
    model: nn.Module, optimizer: Optimizer, start: Masks | None, include: Globs | None, exclude: Globs | None
) -> dict[str, nn.Parameter]:
    """The weights to be masked: those of `start`, or the prunable ones, by name.

    Raises:
        Invalid: if there are none, or the optimizer does not hold one of them.
    """
    if start is None:
        found = prunable(model, include, exclude)
        weights = {name: weight for name, weight in found.items() if weight.requires_grad}
    else:
        there = dict(model.named_parameters())
        if unknown := [name for name in start if name not in there]:
            raise Invalid(f"start has {unknown[0]!r}, which is no parameter of the model; {nearest(unknown[0], there)}")
        weights = {name: there[name] for name in start}
        for name, weight in weights.items():
            if not weight.requires_grad:
                raise Invalid(f"start has {name}, which is frozen; allowed: weights that are trained")
    if not weights:
        raise Invalid(f"this {type(model).__name__} has no prunable weights that are trained")
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, weight in weights.items():
        if id(weight) not in held:
            raise Invalid(f"optimizer does not hold {name}; allowed: one made of this model's parameters, or exclude")
    return weights


def output_axes(model: nn.Module, weights: Weights) -> dict[str, int]:
    """The dimension that each weight's outputs are along."""
    return {name: output_axis(next(owners(model, weight))[0]) for name, weight in weights.items()}


def counts_of(weights: Weights, density: float, scope: str | Allocation, pattern: Pattern | None) -> dict[str, int]:
    """round(density · n) weights shared among the layers, by name.

    Raises:
        Invalid: if the pattern does not go with the density, or a layer would have no weight.
    """
    if pattern and pattern.density:
        if not isclose(density, pattern.density, rel_tol=1e-6):
            raise Invalid(f"density is {density:g}; allowed with pattern {pattern}: {pattern.density:g}")
        scope = "uniform"
    size = sum(weight.numel() for weight in weights.values())
    counts = dict(allot(scope, {n: weight.detach().abs() for n, weight in weights.items()}, round(density * size)))
    for name, count in counts.items():
        if not count:  # it would give a constant for good
            raise Invalid(
                f"density is {density:g}, which leaves none of the {weights[name].numel():,} weights of {name}; "
                f"allowed: a higher one, or exclude={name!r}"
            )
    return counts


def strongest_masks(
    weights: Weights,
    axes: Mapping[str, int],
    counts: Mapping[str, int],
    pattern: Pattern | None,
    scores: Callable[[str, nn.Parameter], Tensor],
) -> Masks:
    """Masks of the weights of the largest scores, as many as `counts` has, or what the pattern makes of that.

    Args:
        weights: by name.
        axes: the dimension of the outputs of each.
        counts: how many each layer keeps.
        pattern: what masks there may be; None any.
        scores: of the weight of a name, [n].

    Raises:
        Invalid: if a layer cannot have the pattern.
    """

    def mask(name: str, weight: nn.Parameter) -> Tensor:
        values, groups, count = scores(name, weight), None, counts[name]
        if pattern:
            width = pattern.width(name, weight, axes[name])
            groups = positions_of(weight.shape, axes[name], width, values.device)
            count = len(groups) * pattern.each(name, width, count / weight.numel())
        return strongest(values, count, groups).view(weight.shape).to(weight.device)

    return Masks._made({name: mask(name, weight) for name, weight in weights.items()})


def random_masks(
    weights: Weights,
    axes: Mapping[str, int],
    density: float,
    scope: str | Allocation,
    pattern: Pattern | None,
    stream: Callable[..., torch.Generator],
) -> Masks:
    """Random masks of a density, shared among the layers; `stream` gives the generator of a layer's choice.

    Raises:
        Invalid: if a layer cannot have its density.
    """

    def draws(name: str, weight: nn.Parameter) -> Tensor:
        return torch.rand(weight.numel(), generator=stream("start", name), dtype=torch.float64)

    return strongest_masks(weights, axes, counts_of(weights, density, scope, pattern), pattern, draws)


def strongest(scores: Tensor, count: int, groups: Tensor | None) -> Tensor:
    """A bool tensor [n] of the `count` largest of `scores` [n], as many in each of the `groups` if there are any."""
    if groups is None:
        return marked(largest(scores, count), len(scores))
    return marked(groups[top_of_rows(scores[groups], count // len(groups))], len(scores))


def given_masks(start: Masks, weights: Weights, axes: Mapping[str, int], pattern: Pattern | None) -> Masks:
    """The masks of the user, on the weights' devices.

    Raises:
        Invalid: if one has not the shape of its weight, or not the pattern.
    """
    for name, mask in start.items():
        if mask.shape != weights[name].shape:
            raise Invalid(f"start has {name} of shape {tuple(mask.shape)}; allowed: {tuple(weights[name].shape)}")
        if pattern:
            width = pattern.width(name, mask, axes[name])
            rows = mask.reshape(-1)[positions_of(mask.shape, axes[name], width, mask.device)].sum(1)
            each = pattern.each(name, width, int(rows.max()) / width)
            if not (rows == each).all():
                raise Invalid(
                    f"start has {int(rows.min())} to {int(rows.max())} weights in the groups of {name}; "
                    f"allowed with the pattern: {each} in each"
                )
    return Masks({name: start[name].to(weight.device) for name, weight in weights.items()})
