"""Magnitude: keep the weights that are far from zero."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from prunus.pruning.criteria.scoring import Option, Scoring


@dataclass(frozen=True)
class Magnitude:
    """Scores are |w|.

    Han et al., "Learning both weights and connections for efficient neural networks", 2015, NeurIPS. With no
    training between them, more rounds change nothing.
    """

    uses: ClassVar[frozenset[Option]] = frozenset()

    def __call__(self, scoring: Scoring) -> dict[str, Tensor]:
        """The absolute values of the weights, in their own type."""
        return {name: weight.detach().abs() for name, weight in scoring.weights.items()}
