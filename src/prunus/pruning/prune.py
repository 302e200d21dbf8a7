"""`prune`: scores, a density and how it is shared, in one or more rounds."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core.allocation import ALLOCATIONS, Allocation, global_
from prunus.core.errors import Invalid, check_density
from prunus.core.floors import Protect, floors_of
from prunus.core.masks import Masks
from prunus.core.params import Globs, prunable
from prunus.core.schedules import SCHEDULES, Schedule
from prunus.core.select import select
from prunus.pruning.criteria import CRITERIA, Criterion, Scoring
from prunus.pruning.criteria.scoring import Walk, walk_of
from prunus.pruning.left import Left

#: How far, relatively, a schedule of a user's own may be off by roundings.
ROUNDING = 1e-6

#: A criterion may also be a plain function, which then sees to its options itself.
Scorer = Callable[[Scoring], Mapping[str, Tensor]]


def prune(
    model: nn.Module,
    criterion: Criterion | Scorer | str,
    density: float,
    *,
    scope: str | Allocation = "global",
    rounds: int | None = None,
    schedule: str | Schedule | None = None,
    protect: Protect | None = None,
    batches: Iterable[Any] | None = None,
    loss: Callable[..., Tensor] | None = None,
    include: Globs | None = None,
    exclude: Globs | None = None,
    generator: torch.Generator | None = None,
) -> Masks:
    """Masks that keep exactly `round(density × n)` of the model's n prunable weights, those that score highest.

    The model is only read: hand the masks to `prunus.apply` to make it sparse. In each round the criterion scores
    the weights under the masks so far, and what was pruned stays pruned (but for a criterion such as FORCE, which
    says otherwise). Masks that the model holds already are not looked at. There is no default criterion.

    Args:
        model: any `nn.Module`.
        criterion: what gives scores: `prunus.Magnitude()`, `prunus.SNIP()`, …, a function of `Scoring`, or the name
            of one.
        density: fraction kept in the end, in (0, 1].
        scope: how the density is shared among the parameters (see `prunus.select`).
        rounds: how often weights are scored and pruned. Default: as the criterion's paper does; else once.
        schedule: the density after each round, as a function of the fraction of rounds done. Default: the
            criterion's own; else exponential.
        protect: how many weights each parameter keeps at least, or which fraction of its own; for some parameters
            only, by glob patterns: `{"*shortcut*": 0.05}`. Default: nothing, and a warning where a parameter is
            left without a weight.
        batches: data for criteria that score on data: an iterable of (inputs, targets), or of mappings that the
            model takes by name.
        loss: `loss(outputs, targets)`, for criteria that use it. Default: the model's own (Transformers), else
            cross-entropy.
        include: glob patterns on names of parameters (see `prunus.prunable`).
        exclude: glob patterns on names of parameters to leave out.
        generator: for criteria that draw random numbers: a CPU generator; default torch's own.

    Raises:
        Invalid: if an option is out of range, unknown, or of no use to the criterion; if the model has no
            prunable weights, or does not take the batches; if a score is NaN.
    """
    if not isinstance(model, nn.Module):
        raise Invalid(f"model is of type {type(model).__name__}; allowed: a torch.nn.Module")
    check_density(density)
    criterion = _named(criterion)
    rounds = getattr(criterion, "rounds", 1) if rounds is None else rounds
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise Invalid(f"rounds is {rounds!r}; allowed: an integer from 1")
    steps: str | Schedule = getattr(criterion, "schedule", "exponential") if schedule is None else schedule
    density_at = steps if callable(steps) else SCHEDULES.look_up(steps)
    _check_used(criterion, {"batches": batches, "loss": loss, "generator": generator})
    weights = prunable(model, include, exclude)
    if not weights:
        raise Invalid(f"{type(model).__name__} has no prunable weights (see prunus.prunable)")
    _check_room(density, weights)
    densities = _densities(density_at, density, rounds)
    full = Masks._made({n: torch.ones(w.shape, dtype=torch.bool, device=w.device) for n, w in weights.items()})
    scoring = Scoring(model, weights, full, batches, loss, generator)
    with torch.inference_mode(False):
        masks = _walked(criterion, scoring, densities, scope, protect)
    _warn_of_empty_layers(masks)
    return masks


def _walked(
    criterion: Criterion | Scorer,
    scoring: Scoring,
    densities: list[float],
    scope: str | Allocation,
    protect: Protect | None,
) -> Masks:
    """Round after round. Scope and floors are checked before anything is scored."""
    sizes = {name: weight.numel() for name, weight in scoring.weights.items()}
    floors = floors_of(protect, sizes, round(densities[-1] * sum(sizes.values())))
    if not callable(scope):
        ALLOCATIONS.look_up(scope, "scope")
    walk = walk_of(criterion, scoring)
    jointly = scope in ("global", global_)
    left = Left(scoring.masks) if jointly else Left(scoring.masks, listed=0)
    if getattr(criterion, "regrows", False):
        return _regrown(walk, left, densities, scope, protect)
    for density in densities:
        if jointly:
            dropped = left.keep(walk.scores(left), round(density * left.total), floors)
        else:
            dropped = left.become(select(walk.scores(left), density, scope, left.masks(), protect))
        if density != densities[-1]:  # nobody asks for scores after the last round
            walk.drop(dropped)
        del dropped  # it holds the masks of a round ago
    return left.masks()


def _regrown(
    walk: Walk, everything: Left, densities: list[float], scope: str | Allocation, protect: Protect | None
) -> Masks:
    """Each round chooses among all weights again."""
    masks = everything.masks()
    for density in densities:
        walk.change(masks)
        masks = select(walk.scores(everything), density, scope, protect=protect)
    return masks


def _named(criterion: Criterion | Scorer | type[Criterion] | str) -> Criterion | Scorer:
    found = criterion if callable(criterion) else CRITERIA.look_up(criterion)
    return found() if isinstance(found, type) else found


def _densities(density_at: Schedule, density: float, rounds: int) -> list[float]:
    """The density after each round: never above that of the round before, never below the last, which is exact."""
    densities = [1.0]
    for done in range(1, rounds + 1):
        most = densities[-1] if done < rounds else density
        after = density_at(done / rounds, density)
        number = isinstance(after, int | float) and not isinstance(after, bool)
        if not number or not density * (1 - ROUNDING) <= after <= most * (1 + ROUNDING):
            allowed = f"from {density:g} to {most:g}" if most > density else f"{density:g}"
            raise Invalid(f"schedule gives a density of {after!r} after round {done} of {rounds}; allowed: {allowed}")
        densities.append(min(max(after, density), most))
    return densities[1:]


def _check_room(density: float, weights: Mapping[str, nn.Parameter]) -> None:
    for name, weight in weights.items():
        if weight.is_meta:
            raise Invalid(f"{name} is on the meta device: it has no values to score")
    total = sum(weight.numel() for weight in weights.values())
    if total and not round(density * total):
        raise Invalid(
            f"density is {density!r}, which keeps none of {total:,} weights; allowed: at least {1 / total:.3g}"
        )


def _check_used(criterion: Criterion | Scorer, options: Mapping[str, object]) -> None:
    uses = getattr(criterion, "uses", options.keys())
    for option, value in options.items():
        if value is not None and option not in uses:
            what = ", ".join(sorted(uses)) or f"none of {', '.join(options)}"
            raise Invalid(f"{type(criterion).__name__} has no use for {option}; it uses {what}")


def _warn_of_empty_layers(masks: Masks) -> None:
    empty = [layer.name for layer in masks.layers if layer.total and not layer.kept]
    if empty:
        named = ", ".join(empty[:3]) + (f" and {len(empty) - 3} more" if len(empty) > 3 else "")
        warnings.warn(f"no weight is kept in {named}; protect=1 keeps one in each parameter", stacklevel=3)
