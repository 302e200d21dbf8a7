"""What an engine is."""

from collections.abc import Sequence
from typing import Protocol, Self

from prunus.training.checkpoint import State
from prunus.training.lane import Lane


class Engine(Protocol):
    """Computes the steps of lanes, each as it would be computed alone.

    While a lane is in an engine its weights may lie there; `state` and `leave` put them into the lane's model.
    """

    @property
    def room(self) -> int:
        """How many lanes it is best to have at once."""
        ...

    def takes(self, lane: Lane) -> bool:
        """Whether `lane` may join the lanes that are here."""
        ...

    def join(self, lane: Lane, state: State) -> None:
        """Take `lane` in, with the weights in its model, and what a checkpoint kept of its memory (may be empty)."""
        ...

    def advance(self, lanes: Sequence[Lane], steps: Sequence[int]) -> None:
        """Train each of `lanes` by its number of steps from where it stands, and add to its sums."""
        ...

    def evaluate(self, lanes: Sequence[Lane], split: str) -> list[tuple[float, float]]:
        """Mean loss and accuracy of each of `lanes` on its "train", "validation" or "test" split."""
        ...

    def state(self, lane: Lane) -> State:
        """What `lane` has in memory; its weights are put into its model."""
        ...

    def leave(self, lane: Lane) -> None:
        """Put the weights of `lane` into its model and forget it."""
        ...

    def emptied(self) -> Self:
        """A fresh engine of the same kind without lanes; the models of those it had are as they joined."""
        ...
