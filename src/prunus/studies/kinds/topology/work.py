"""The work on a cell of the topology study: a sparse training, whose masks are followed."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from prunus.analysis import Exploration
from prunus.core.apply import masks_of
from prunus.data import DataSet
from prunus.sparse_training import SparseTraining
from prunus.studies.cells import Cell
from prunus.studies.kinds.initialization.masks import example_of
from prunus.studies.kinds.sparse_training.work import Making, lane_of, measured, ticket_of
from prunus.studies.kinds.topology.series import series
from prunus.studies.store import Store
from prunus.studies.work import Work, new_model
from prunus.training.lane import Watch

_OWN = "exploration/"


class Followed:
    """A method, and where its masks have been.

    Args:
        method: just made.
        exploration: of its first masks.
    """

    def __init__(self, method: SparseTraining, exploration: Exploration) -> None:
        self.method, self.exploration = method, exploration

    def step(self) -> None:
        """The method's, and a look at each update."""
        self.method.step()
        if self.method.updates and self.method.updates[-1].step > self.exploration.rows[-1].step:
            self.exploration.see(self.method.masks, self.method.updates[-1].step)

    def state_dict(self) -> dict[str, Any]:
        """Both states."""
        own = {f"{_OWN}{name}": value for name, value in self.exploration.state_dict().items()}
        return {**self.method.state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse."""
        own = {name.removeprefix(_OWN): value for name, value in state_dict.items() if name.startswith(_OWN)}
        self.method.load_state_dict({n: value for n, value in state_dict.items() if not n.startswith(_OWN)})
        self.exploration.load_state_dict(own)


class Following:
    """Makes a cell's method and follows it, and keeps both for the measures.

    Args:
        cell: whose.
        data: its data.
    """

    def __init__(self, cell: Cell, data: DataSet) -> None:
        self._making, self._data = Making(cell), data
        self._followed: Followed | None = None

    def __call__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Followed:
        method = self._making(model, optimizer)
        self._followed = Followed(method, Exploration(method.masks, model, example_of(self._data)))
        return self._followed

    @property
    def followed(self) -> Followed:
        """What was made, once training has begun."""
        assert self._followed is not None
        return self._followed


def begin(cell: Cell, data: DataSet, store: Store, watch: Watch | None = None) -> Work:
    """The work on a cell."""
    following = Following(cell, data)
    lane = lane_of(cell, new_model(cell, data), data, store, watch, method=following)

    def after(trained: nn.Module) -> Mapping[str, Any]:
        method, exploration = following.followed.method, following.followed.exploration
        moved = series(exploration.rows, method.steps, cell.identity["looks"])
        return {**measured(method, trained, cell, data), **moved}

    return Work(cell, lane, after=after, found=lambda trained: ticket_of(cell, masks_of(trained)))
