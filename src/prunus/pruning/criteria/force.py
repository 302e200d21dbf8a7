"""FORCE: SNIP round after round, with weights that may come back."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from prunus.pruning.criteria.gradients import MaskedGradients
from prunus.pruning.criteria.saliency import SaliencyWalk
from prunus.pruning.criteria.scoring import Scoring
from prunus.pruning.criteria.snip import SNIP
from prunus.pruning.left import Left


@dataclass(frozen=True)
class FORCE(SNIP):
    """Scores are |θ ⊙ ∂L/∂θ| with the dense weights θ and the gradient at the pruned network, θ ⊙ m.

    So a pruned weight has a score too. In each of 60 rounds, with an exponential schedule, the mask is chosen among
    all weights. De Jorge et al., "Progressive skeletonization: trimming more fat from a network at initialization",
    2021, ICLR.
    """

    rounds: ClassVar[int] = 60
    schedule: ClassVar[str] = "exponential"
    regrows: ClassVar[bool] = True

    def begin(self, scoring: Scoring) -> SaliencyWalk:
        """Reads the data once."""
        return _Walk(self, scoring)


class _Walk(SaliencyWalk):
    def __init__(self, criterion: FORCE, scoring: Scoring) -> None:
        super().__init__(criterion, scoring)
        self._weights = scoring.weights

    def scores(self, left: Left) -> dict[str, Tensor]:  # noqa: ARG002 - all are scored
        """The gradient of every weight, times its dense value."""

        def formed(name: str, gradient: Tensor) -> Tensor:
            return self._form(gradient * self._weights[name].detach())

        return self._network.scores(MaskedGradients.first, formed)
