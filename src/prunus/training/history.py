"""What a training leaves behind: its evaluations, and the two moments that are reported of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isnan


@dataclass(frozen=True)
class Evaluation:
    """One look at the network while it trains. Losses are mean cross-entropies, accuracies fractions in [0, 1].

    The training figures are means over the batches since the evaluation before, as they were met. The test set is
    looked at only where the validation loss reaches a new minimum, and at the end: nothing is chosen by it.
    """

    iteration: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    test_loss: float | None = None
    test_accuracy: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a network was worth at one moment: at its early stop, or at the end of training."""

    iteration: int
    train_accuracy: float | None
    validation_loss: float
    validation_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class History:
    """All evaluations of one training, and the accuracy on the whole training split at its end."""

    evaluations: tuple[Evaluation, ...]
    train_accuracy: float

    @property
    def early_stop(self) -> Outcome:
        """The evaluation of the smallest validation loss, the first of them where several are equal."""
        return _outcome(self.evaluations[earliest_minimum(self.evaluations)], None)

    @property
    def final(self) -> Outcome:
        """The last evaluation, with the accuracy on the whole training split."""
        return _outcome(self.evaluations[-1], self.train_accuracy)


def earliest_minimum(evaluations: Sequence[Evaluation]) -> int:
    """The index of the first evaluation whose validation loss is smallest; a loss that is NaN counts as infinite."""
    losses = [inf if isnan(e.validation_loss) else e.validation_loss for e in evaluations]
    return losses.index(min(losses))


def _outcome(at: Evaluation, train_accuracy: float | None) -> Outcome:
    assert at.test_accuracy is not None
    return Outcome(at.iteration, train_accuracy, at.validation_loss, at.validation_accuracy, at.test_accuracy)
