"""The batches of a training: a pure function of seed and iteration."""

import torch
from torch import Tensor

from prunus.core.seeds import generator
from prunus.data import DataSet, augment
from prunus.data.dataset import Split
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
        images, labels = self._chosen(iteration)
        return self._data.normalise(images), labels

    def rows(self, first: int, count: int) -> Tensor:
        """Which training examples iterations `first` to `first + count` take: int64 [count, batch]."""
        size = self._recipe.batch
        length = len(self._data.train) // size
        parts = []
        while count:
            epoch, place = divmod(first, length)
            here = min(count, length - place)
            parts.append(self._permutation(epoch)[place * size : (place + here) * size])
            first, count = first + here, count - here
        return torch.cat(parts).view(-1, size) if len(parts) > 1 else parts[0].view(-1, size)

    def examples(self, first: int, count: int) -> tuple[Split, Tensor]:
        """The same iterations as images uint8 and labels, and which of them each takes: int64 [count, batch]."""
        if not self._recipe.augment:
            return self._data.train, self.rows(first, count)
        images, labels = zip(*(self._chosen(i) for i in range(first, first + count)), strict=True)
        split = Split(torch.cat(images), torch.cat(labels))
        return split, torch.arange(len(split), device=split.labels.device).view(count, -1)

    def _chosen(self, iteration: int) -> tuple[Tensor, Tensor]:
        split, chosen = self._data.train, self.rows(iteration, 1)[0]
        images = split.images.index_select(0, chosen)
        if self._recipe.augment:
            images = augment(images, generator(self._seed, "augmentation", iteration))
        return images, split.labels.index_select(0, chosen)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            split = self._data.train
            order = torch.randperm(len(split), generator=generator(self._seed, "data order", epoch))
            self._epoch, self._order = epoch, order.to(split.images.device)
        return self._order
