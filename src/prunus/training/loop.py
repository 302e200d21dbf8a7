"""`train`: one model, as a stack of one."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from prunus.core.masks import Masks
from prunus.data import DataSet
from prunus.training.history import History
from prunus.training.lane import Lane, MakeMethod, Watch
from prunus.training.recipe import Recipe
from prunus.training.stack import train_together


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
    method: MakeMethod | None = None,
) -> History:
    """Train `model` in place on the training split of `data`, from iteration `start` up to `stop`.

    Weights outside `masks` are zero from the first step to the last. The optimizer is fresh; the learning rate and
    the order of the data are those of iteration `start`, so that training to k, and then from k on with the same
    seed, meets the batches and rates of one uninterrupted training. A training whose validation loss is no number
    any more ends there.

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
        method: what changes the network while it trains, such as a topology update: called once with the model and its
            optimizer, it gives an object whose `step()` follows each step of the optimizer.

    Raises:
        Invalid: if there is nothing to train between `start` and `stop`, or the checkpoint is of another training.
    """
    path, every = (checkpointing.path, checkpointing.every) if checkpointing else (None, 60.0)
    lane = Lane(model, data, recipe, masks, seed, start, stop, watch, path, method)
    (history,) = train_together([lane], checkpoint_every=every)
    return history
