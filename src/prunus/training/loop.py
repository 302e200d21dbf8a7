"""The training loop: one model, masked or dense, with exact resumption.

Every random number of a training is a function of its seed and of where the training stands, so a checkpoint is
the weights, the optimizer's state and the records: the order of the data needs no saving.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import derive
from prunus.data import DataSet
from prunus.training.batches import Batches
from prunus.training.checkpoint import load_checkpoint, save_checkpoint
from prunus.training.evaluate import evaluate
from prunus.training.gradients import gradients_of
from prunus.training.history import Evaluation, History, earliest_minimum
from prunus.training.recipe import Recipe, learning_rate, make_optimizer

#: Called after each evaluation.
Watch = Callable[[Evaluation], None]


@dataclass(frozen=True)
class Checkpointing:
    """Where a training leaves its checkpoint, and how often, in seconds."""

    path: Path
    every: float = 60.0


def train(
    model: nn.Module,
    data: DataSet,
    recipe: Recipe,
    *,
    masks: Masks | None = None,
    seed: int = 0,
    start: int = 0,
    stop: int | None = None,
    watch: Watch | None = None,
    checkpointing: Checkpointing | None = None,
) -> History:
    """Train `model` in place on the training split of `data`, from iteration `start` up to `stop`.

    Weights outside `masks` are zero from the first step to the last. The optimizer is fresh; the learning rate and
    the order of the data are those of iteration `start`, so that training to k, and then from k on with the same
    seed, meets the batches and rates of one uninterrupted training.

    Args:
        model: trained in place, on the device it is on; left in evaluation mode.
        data: images and labels, on the model's device.
        recipe: how to train.
        masks: what is kept; None trains the model as it is.
        seed: of the data order, augmentation and dropout, each a stream of its own.
        start: iteration to begin at.
        stop: iteration to end before; None is the recipe's length.
        watch: called with each evaluation, those of a checkpoint included.
        checkpointing: where to leave a checkpoint while training; one that is there already is gone on from.

    Raises:
        Invalid: if there is nothing to train between `start` and `stop`, or the checkpoint is of another training.
    """
    recipe = recipe.resolved(len(data.train))
    stop = int(recipe.iterations) if stop is None else stop
    if not 0 <= start < stop <= int(recipe.iterations):
        raise Invalid(f"start is {start} and stop {stop}; allowed: 0 ≤ start < stop ≤ {recipe.iterations}")
    devices = [data.train.images.device] if data.train.images.is_cuda else []
    # dropout draws from the global generator: it gets a stream of its own here, and its old state back afterwards
    with torch.random.fork_rng(devices):
        torch.manual_seed(derive(seed, "dropout"))
        training = Trainer(model, data, recipe, masks=masks, seed=seed, start=start)
        training.resume(checkpointing, stop, watch)
        training.run(checkpointing, stop, watch)
        _, accuracy = evaluate(model, data, data.train)
    return History(tuple(training.evaluations), accuracy)


class Trainer:
    """The state of one training, and the steps that move it on; `train` is the way in."""

    def __init__(
        self,
        model: nn.Module,
        data: DataSet,
        recipe: Recipe,
        *,
        masks: Masks | None = None,
        seed: int = 0,
        start: int = 0,
    ) -> None:
        self.model, self.data, self.recipe, self.start, self.iteration = model, data, recipe, start, start
        self.batches = Batches(data, recipe, seed)
        self.gradients = gradients_of(model)
        self.optimizer = make_optimizer(recipe, model.parameters())
        self.evaluations: list[Evaluation] = []
        # loss and correct predictions, summed over the batches since the last evaluation
        self.sums = torch.zeros(2, dtype=torch.float64, device=data.train.images.device)
        parameters = dict(model.named_parameters())
        # masks as floats: a product with them takes a seventh of the time of one with bools
        self.masked = [(parameters[n], m.to(parameters[n])) for n, m in (masks or {}).items()]
        with torch.no_grad():
            for parameter, mask in self.masked:
                parameter.mul_(mask)

    def run(self, checkpointing: Checkpointing | None, stop: int, watch: Watch | None) -> None:
        """Train up to `stop`, with evaluations and checkpoints on the way."""
        every, saved = int(self.recipe.evaluate_every), time.monotonic()
        self.model.train()
        while self.iteration < stop:
            self.step()
            if self.iteration % every == 0 or self.iteration == stop:
                self.evaluate(last=self.iteration == stop)
                if watch:
                    watch(self.evaluations[-1])
            if checkpointing and time.monotonic() - saved >= checkpointing.every:
                self.save(checkpointing.path, stop)
                saved = time.monotonic()

    def step(self) -> None:
        """One iteration: gradients, masks, optimizer."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.iteration)
        loss, correct = self.gradients(*self.batches[self.iteration])
        # zero weights with zero gradients stay zero under SGD, Adam and AdamW, whatever their decay and momentum
        for parameter, mask in self.masked:
            assert parameter.grad is not None
            parameter.grad.mul_(mask)
        self.optimizer.step()
        self.sums[0] += loss
        self.sums[1] += correct
        self.iteration += 1

    def evaluate(self, last: bool) -> None:
        """Add an evaluation; the test set is looked at where validation is best so far, or at the last."""
        self.model.eval()
        behind = self.evaluations[-1].iteration if self.evaluations else self.start
        batches = self.iteration - behind
        loss, correct = self.sums.tolist()
        seen = Evaluation(
            self.iteration,
            loss / batches,
            correct / (batches * self.recipe.batch),
            *evaluate(self.model, self.data, self.data.validation),
        )
        self.evaluations.append(seen)
        if last or earliest_minimum(self.evaluations) == len(self.evaluations) - 1:
            test_loss, test_accuracy = evaluate(self.model, self.data, self.data.test)
            self.evaluations[-1] = replace(seen, test_loss=test_loss, test_accuracy=test_accuracy)
        self.sums.zero_()
        self.model.train()

    def save(self, path: Path, stop: int) -> None:
        """Write a checkpoint."""
        where = {"start": self.start, "stop": stop, "iteration": self.iteration}
        save_checkpoint(path, self.model, self.optimizer, self.sums, self.evaluations, where)

    def resume(self, checkpointing: Checkpointing | None, stop: int, watch: Watch | None) -> None:
        """Go on from the checkpoint, if there is one."""
        if not checkpointing or not checkpointing.path.exists():
            return
        where = {"start": self.start, "stop": stop}
        loaded = load_checkpoint(checkpointing.path, self.model, self.optimizer, self.sums, where)
        self.iteration, self.evaluations = loaded
        for evaluation in self.evaluations if watch else ():
            assert watch
            watch(evaluation)
