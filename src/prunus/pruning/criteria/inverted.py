"""Inverted: the weights that a criterion would prune first are kept. A control."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from prunus.core.errors import Invalid
from prunus.pruning.criteria.scoring import Criterion, Scoring, Walk, walk_of
from prunus.pruning.left import Left


@dataclass(frozen=True)
class Inverted:
    """Scores are those of another criterion with the sign changed; rounds, schedule and options are the other's.

    A criterion that tells weights apart must do much worse inverted. Frankle, Dziugaite, Roy and Carbin, "Pruning
    neural networks at initialization: why are we missing the mark?", 2021, ICLR.

    Args:
        criterion: whose scores to invert.
    """

    criterion: Criterion | Callable[[Scoring], Mapping[str, Tensor]]

    def __post_init__(self) -> None:
        if isinstance(self.criterion, type) or not callable(self.criterion):
            raise Invalid(f"criterion is {self.criterion!r}; allowed: a criterion such as SNIP()")

    def __getattr__(self, name: str) -> object:
        if name in ("uses", "rounds", "schedule", "regrows"):
            return getattr(self.criterion, name)
        raise AttributeError(name)

    def __call__(self, scoring: Scoring) -> dict[str, Tensor]:
        """The other's scores, negated."""
        return {name: -tensor for name, tensor in self.criterion(scoring).items()}

    def begin(self, scoring: Scoring) -> "_Walk":
        """The other's work, its scores negated."""
        return _Walk(walk_of(self.criterion, scoring))


class _Walk:
    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self.drop = walk.drop
        self.change = walk.change

    def scores(self, left: Left) -> dict[str, Tensor]:
        return {name: -tensor for name, tensor in self._walk.scores(left).items()}
