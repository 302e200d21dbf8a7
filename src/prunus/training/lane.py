"""`Lane`: one training, and where it stands."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.data import DataSet
from prunus.training.batches import Batches
from prunus.training.history import Evaluation, History
from prunus.training.recipe import Recipe

#: Called after each evaluation.
Watch = Callable[[Evaluation], None]


class Method(Protocol):
    """What changes a network while it trains, beside the optimizer: a topology update, a learned mask.

    It may have a `loss`, from logits [B, C] and labels [B] to the mean of their losses: training then goes by it, and
    the loss recorded for training is that one. Cross-entropy is what evaluation measures all the same. Parameters of
    its own it may add behind those of the optimizer's last group; their values and moments are part of its state.

    It may have a `finish()` that takes out of the network what is only there in training. It is called when the lane
    leaves its engine, at its end, at an early `stop` or diverged, and before it begins again for want of memory; a
    second call must do nothing. Evaluations come before it. A span that goes on from a `stop` is another lane, whose
    method is made anew and knows nothing of the first, so it too begins with the plain network.
    """

    def step(self) -> None:
        """Called after each step of the optimizer."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors by name, and whatever else JSON can hold: what a checkpoint keeps of it."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse."""
        ...


#: From the model in training and its optimizer to a `Method`; both are ready when it is called.
MakeMethod = Callable[[nn.Module, torch.optim.Optimizer], Method]


@dataclass(eq=False)
class Lane:
    """One training: what it consists of, and where it stands.

    Args:
        model: on the device of `data`. Its weights are where training starts; when the lane has left its stack, where
            it ended. In between they may lie elsewhere.
        data: images and labels.
        recipe: how to train.
        masks: what is kept; None trains the model as it is.
        seed: of the data order, augmentation and dropout, each a stream of its own.
        start: iteration to begin at.
        stop: iteration to end before; None is the recipe's length.
        watch: called with each evaluation, those of a checkpoint included.
        checkpoint: where to leave a checkpoint while training; one that is there already is gone on from.
        method: what changes the network while it trains; None is the optimizer alone.

    Raises:
        Invalid: if there is nothing to train between `start` and `stop`, or a batch is larger than the data.
    """

    model: nn.Module
    data: DataSet
    recipe: Recipe
    masks: Masks | None = None
    seed: int = 0
    start: int = 0
    stop: int | None = None
    watch: Watch | None = None
    checkpoint: Path | None = None
    method: MakeMethod | None = None

    batches: Batches = field(init=False, repr=False)
    last: int = field(init=False)  # the iteration that training ends before
    iteration: int = field(init=False)
    evaluations: list[Evaluation] = field(init=False, default_factory=list, repr=False)
    # loss and correct predictions, summed over the batches since the last evaluation, float64 [2]
    sums: Tensor = field(init=False, repr=False)
    train_accuracy: float | None = field(init=False, default=None)
    seconds: float = field(init=False, default=0.0)  # its share of the time that its stack took
    products: dict[str, str] = field(init=False, default_factory=dict)  # how each layer is computed, in words

    def __post_init__(self) -> None:
        self.recipe = self.recipe.resolved(len(self.data.train))
        length = int(self.recipe.iterations)
        self.last = length if self.stop is None else self.stop
        if not 0 <= self.start < self.last <= length:
            raise Invalid(f"start is {self.start} and stop {self.last}; allowed: 0 ≤ start < stop ≤ {length}")
        self.batches = Batches(self.data, self.recipe, self.seed)
        self.restart()

    def restart(self) -> None:
        """Stand at the beginning."""
        self.iteration = self.start
        self.evaluations = []
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.device)

    @property
    def device(self) -> torch.device:
        """Where the data lie."""
        return self.data.train.images.device

    @property
    def next_evaluation(self) -> int:
        """The iteration before which the network is evaluated next."""
        every = int(self.recipe.evaluate_every)
        return min((self.iteration // every + 1) * every, self.last)

    @property
    def diverged(self) -> bool:
        """Whether the last validation loss was no number: no later one will be, so training ends there."""
        return bool(self.evaluations) and isnan(self.evaluations[-1].validation_loss)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.iteration >= self.last or self.diverged

    @property
    def history(self) -> History:
        """What a finished training leaves behind."""
        assert self.train_accuracy is not None
        return History(tuple(self.evaluations), self.train_accuracy)
