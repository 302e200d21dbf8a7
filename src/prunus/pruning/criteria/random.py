"""Random: the floor that each criterion must beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunus.pruning.criteria.scoring import Fixed, Option, Scoring


@dataclass(frozen=True)
class Random:
    """Scores are drawn independently and uniformly from [0, 1), in float64, where ties are rare.

    They are drawn once, whatever the number of rounds, and on the CPU: the same generator gives the same masks on
    any device.
    """

    uses: ClassVar[frozenset[Option]] = frozenset({"generator"})

    def __call__(self, scoring: Scoring) -> dict[str, Tensor]:
        """One draw for each weight, in the order of the parameters; on the CPU."""
        draw = {"generator": scoring.generator, "dtype": torch.float64}
        return {name: torch.rand(weight.shape, **draw) for name, weight in scoring.weights.items()}

    def begin(self, scoring: Scoring) -> Fixed:
        """Draws once."""
        return Fixed(self(scoring))
