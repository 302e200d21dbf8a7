"""`prune`: scores, a density and how it is shared, in one or more rounds."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core.allocation import Allocation
from prunus.core.errors import Invalid, check_density
from prunus.core.masks import Masks
from prunus.core.params import Globs, prunable
from prunus.core.schedules import SCHEDULES, Schedule
from prunus.core.select import select
from prunus.pruning.criteria import CRITERIA, Criterion, Scoring

#: A criterion may also be a plain function, which then sees to its options itself.
Scorer = Callable[[Scoring], Mapping[str, Tensor]]


def prune(
    model: nn.Module,
    criterion: Criterion | Scorer | str,
    density: float,
    *,
    scope: str | Allocation = "global",
    rounds: int = 1,
    schedule: str | Schedule = "exponential",
    batches: Iterable[Any] | None = None,
    loss: Callable[..., Tensor] | None = None,
    include: Globs | None = None,
    exclude: Globs | None = None,
    generator: torch.Generator | None = None,
) -> Masks:
    """Masks that keep exactly `round(density × n)` of the model's n prunable weights, those that score highest.

    The model is only read: hand the masks to `prunus.apply` to make it sparse. In each round the criterion scores
    the weights under the masks so far, and what was pruned stays pruned.

    Args:
        model: any `nn.Module`.
        criterion: what gives scores: `prunus.Magnitude()`, …, a function of `Scoring`, or the name of one.
        density: fraction kept in the end, in (0, 1].
        scope: how the density is shared among the parameters (see `prunus.select`).
        rounds: how often weights are scored and pruned. Default: once.
        schedule: the density after each round, as a function of the fraction of rounds done.
        batches: data for criteria that score on data.
        loss: `loss(outputs, targets)`, for criteria that use it.
        include: glob patterns on names of parameters (see `prunus.prunable`).
        exclude: glob patterns on names of parameters to leave out.
        generator: for criteria that draw random numbers: a CPU generator; default torch's own.

    Raises:
        Invalid: if an option is out of range, unknown, or of no use to the criterion; if the model has no
            prunable weights; if a score is NaN.
    """
    if not isinstance(model, nn.Module):
        raise Invalid(f"model is of type {type(model).__name__}; allowed: a torch.nn.Module")
    check_density(density)
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise Invalid(f"rounds is {rounds!r}; allowed: an integer from 1")
    criterion = _named(criterion)
    density_at = schedule if callable(schedule) else SCHEDULES.look_up(schedule)
    _check_used(criterion, {"batches": batches, "loss": loss, "generator": generator})
    weights = prunable(model, include, exclude)
    if not weights:
        raise Invalid(f"{type(model).__name__} has no prunable weights (see prunus.prunable)")
    if batches is not None and rounds > 1:
        batches = list(batches)  # an iterator would be empty in the second round
    masks = Masks({n: torch.ones(w.shape, dtype=torch.bool, device=w.device) for n, w in weights.items()})
    for done in range(1, rounds + 1):
        scores = criterion(Scoring(model, weights, masks, batches, loss, generator))
        chosen = select(scores, density_at(done / rounds, density), scope, within=masks)
        masks = Masks({name: chosen[name].to(weight.device) for name, weight in weights.items()})
    return masks


def _named(criterion: Criterion | Scorer | type[Criterion] | str) -> Criterion | Scorer:
    found = criterion if callable(criterion) else CRITERIA.look_up(criterion)
    return found() if isinstance(found, type) else found


def _check_used(criterion: Criterion | Scorer, options: Mapping[str, object]) -> None:
    uses = getattr(criterion, "uses", options.keys())
    for option, value in options.items():
        if value is not None and option not in uses:
            what = ", ".join(sorted(uses)) or f"none of {', '.join(options)}"
            raise Invalid(f"{type(criterion).__name__} has no use for {option}; it uses {what}")
