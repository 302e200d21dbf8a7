"""The rows of the conformance table: each way to masks that has a name, those of other packages included.

A criterion in one file with one row in `prunus.pruning.criteria` is checked by that alone. A new kind of method
becomes rows here by one line that says how its table makes masks.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core.allocation import ALLOCATIONS
from prunus.core.masks import Masks
from prunus.pruning import CRITERIA, Scoring, prune
from toy import batch

#: Each criterion's name, and each scope's.
ROWS = list(CRITERIA)
SCOPES = list(ALLOCATIONS)
#: Each criterion with scopes: all of them where scoring costs nothing, as selection is the same for all criteria.
_CHEAP = ("magnitude", "random")
PAIRS = [(name, scope) for name in ROWS for scope in SCOPES if name in _CHEAP or scope in ("global", "erk")]
#: Enough for the scopes that keep some layers dense; below, a scope may refuse.
ROOMY = 0.9


def options(name: str, kind: type[nn.Module], seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """What the criterion has a use for: a generator of this seed, data for the toy model, a loss."""
    given: dict[str, Callable[[], Any]] = {
        "generator": lambda: torch.Generator().manual_seed(seed),
        "batches": lambda: [batch(kind, seed=1, dtype=dtype), batch(kind, seed=2, dtype=dtype)],
        "loss": lambda: nn.functional.cross_entropy,
    }
    return {option: given[option]() for option in CRITERIA[name].uses}


def make_masks(
    name: str, model: nn.Module, density: float, scope: str = "global", seed: int = 0, rounds: int = 1
) -> Masks:
    """The masks of a row for a toy model."""
    dtype = next(model.parameters()).dtype
    given = options(name, type(model), seed, dtype)
    return prune(model, CRITERIA[name](), density, scope=scope, rounds=rounds, **given)


def make_scores(name: str, model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """The scores of a row for a dense toy model."""
    full = Masks.full(model)
    weights = {n: p for n, p in model.named_parameters() if n in full}
    dtype = next(model.parameters()).dtype
    given = options(name, type(model), seed, dtype)
    return dict(CRITERIA[name]()(Scoring(model, weights, full, **given)))
