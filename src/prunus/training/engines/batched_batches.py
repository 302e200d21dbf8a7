"""The batches of many lanes, and the numbers of their optimizers, for some steps ahead: laid out on the device.

A step takes what is at the place where it stands, so it needs nothing of the host and can be replayed as a graph.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from prunus.data import DataSet
from prunus.training.engines.batched_optimizers import COLUMNS, settings
from prunus.training.lane import Lane
from prunus.training.recipe import Recipe

#: The most steps that are laid out at a time.
AHEAD = 256
#: The most bytes that augmented images may take, unless it takes more for a single step.
AUGMENTED = 64 * 2**20


class Ahead:
    """The next steps of lanes that share data set and size of batch.

    Args:
        data: the data set.
        recipe: of one of them: size of batch, and whether images are augmented.
        count: how many lanes there are.
    """

    def __init__(self, data: DataSet, recipe: Recipe, count: int) -> None:
        batch = recipe.batch
        self._data, device = data, data.train.images.device
        self.steps = AHEAD
        self._images, self._labels = data.train.images, data.train.labels
        if recipe.augment:
            image = data.train.images[0]
            self.steps = max(1, min(AHEAD, AUGMENTED // (count * batch * image.nbytes)))
            places = self.steps * count * batch
            self._images = image.new_empty(places, *image.shape)
            self._labels = data.train.labels.new_empty(places)
        self._own = recipe.augment
        self._rows = torch.zeros(self.steps, count, batch, dtype=torch.int64, device=device)
        self._settings = torch.zeros(self.steps, count, COLUMNS, device=device)
        self._place = torch.zeros(1, dtype=torch.int64, device=device)

    def lay_out(self, lanes: Sequence[Lane | None], done: int, count: int) -> None:
        """Lay out some steps of each lane.

        Args:
            lanes: by row; None where whatever is there already will do.
            done: how many steps they have taken beyond `Lane.iteration`.
            count: how many to lay out, at most `steps`.
        """
        numbers = torch.zeros(count, len(lanes), COLUMNS, dtype=torch.float64)
        for row, lane in enumerate(lanes):
            if lane is None:
                continue
            first = lane.iteration + done
            self._rows[:count, row] = self._chosen(row, lane, first, count)
            numbers[:, row] = torch.tensor(
                [settings(lane.recipe, i, i - lane.start) for i in range(first, first + count)], dtype=torch.float64
            )
        self._settings[:count] = numbers.to(self._settings)
        self._place.zero_()

    def now(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images, normalised, [lanes, batch, C, H, W], labels, and `settings`; the next call gives the next step's."""
        rows = self._rows.index_select(0, self._place)[0]
        numbers = self._settings.index_select(0, self._place)[0]
        self._place.add_(1)
        images = self._data.normalise(self._images.index_select(0, rows.view(-1)))
        labels = self._labels.index_select(0, rows.view(-1))
        return images.unflatten(0, rows.shape), labels.view_as(rows), numbers

    def _chosen(self, row: int, lane: Lane, first: int, count: int) -> Tensor:
        """Where a lane's images of some steps are, [count, batch]; augmented ones are put there."""
        if not self._own:
            return lane.batches.rows(first, count)
        split, rows = lane.batches.examples(first, count)
        here = row * self.steps * rows.shape[1]
        self._images[here : here + len(split)] = split.images
        self._labels[here : here + len(split)] = split.labels
        return rows + here
