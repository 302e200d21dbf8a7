"""The seam between `prune` and its criteria: what a criterion is given, and what it gives back."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from prunus.core.masks import Masks

#: An option of `prune` that not every criterion has a use for.
Option = Literal["batches", "loss", "generator"]


@dataclass(frozen=True)
class Scoring:
    """What a criterion scores.

    Attributes:
        model: the model, as the user gave it. A criterion leaves it as it was: parameters, buffers, gradients,
            modes and generators.
        weights: its prunable parameters.
        masks: what is kept so far, on the weights' devices: the scores are those of the network under these masks.
            What is scored where they are False does not count; it must not be NaN.
        batches: the data to score on, if the criterion uses data.
        loss: `loss(outputs, targets)`, if the criterion uses it.
        generator: where random numbers come from; None means torch's own.
    """

    model: nn.Module
    weights: Mapping[str, nn.Parameter]
    masks: Masks
    batches: Iterable[Any] | None = None
    loss: Callable[..., Tensor] | None = None
    generator: torch.Generator | None = None


class Criterion(Protocol):
    """What gives scores: one tensor of the parameter's shape for each of `weights`; larger means keep.

    `uses` names the options of `prune` that the criterion has a use for; of these, it says itself which it needs.
    """

    uses: ClassVar[frozenset[Option]]

    def __call__(self, scoring: Scoring) -> Mapping[str, Tensor]:
        """The scores."""
        ...
