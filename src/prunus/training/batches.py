"""The batches of a training: a pure function of seed and iteration."""

import torch
from torch import Tensor

from prunus.core.seeds import generator
from prunus.data import DataSet, augment
from prunus.training.recipe import Recipe


class Batches:
    """`batches[iteration]` is that iteration's images, normalised and augmented, and its labels, on the device.

    Each epoch is a fresh permutation of the training split; what does not fill a batch at its end is dropped.
    The images stay uint8 until they are used, in one tensor, so a batch is one gather.

    Args:
        data: with n training images.
        recipe: a resolved recipe.
        seed: of the streams "data order" (one for each epoch) and "augmentation" (one for each iteration).
    """

    def __init__(self, data: DataSet, recipe: Recipe, seed: int) -> None:
        self._data, self._recipe, self._seed = data, recipe, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor]:
        split, size = self._data.train, self._recipe.batch
        epoch, place = divmod(iteration, len(split) // size)
        if epoch != self._epoch:
            order = torch.randperm(len(split), generator=generator(self._seed, "data order", epoch))
            self._epoch, self._order = epoch, order.to(split.images.device)
        chosen = self._order[place * size : (place + 1) * size]
        images = split.images.index_select(0, chosen)
        if self._recipe.augment:
            images = augment(images, generator(self._seed, "augmentation", iteration))
        return self._data.normalise(images), split.labels.index_select(0, chosen)
