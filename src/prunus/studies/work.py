"""The work on one cell: its starting point, its lane, its files."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

from prunus._version import __version__
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import derive, generator
from prunus.data import DataSet
from prunus.kernels import native
from prunus.models import build
from prunus.models.roles import kind_of
from prunus.studies.cells import Cell, recipe_of
from prunus.studies.config import PruneConfig
from prunus.studies.store import Store
from prunus.tickets import Ticket, randomised, reinitialised, shuffled
from prunus.tickets.rounds import prune_round
from prunus.tickets.ticket import snapshot
from prunus.training import Lane
from prunus.training.lane import Watch


class Diverged(Invalid):
    """A ticket cannot be made, since the network that it is pruned from was trained to no number."""


@dataclass(frozen=True)
class Work:
    """A cell in training: the ticket it starts from, and its lane."""

    cell: Cell
    ticket: Ticket
    lane: Lane

    @classmethod
    def begin(cls, cell: Cell, data: DataSet, store: Store, watch: Watch | None = None) -> "Work":
        """The work on `cell`, whose parents are in `store`; a checkpoint left by an earlier try will be used.

        Args:
            cell: what to train.
            data: its data, on the device to train on.
            store: where its parents lie and where it goes.
            watch: called with each evaluation.

        Raises:
            Diverged: if its parent was trained to no number.
            Invalid: if a file of its parents is damaged.
        """
        model = new_model(cell, data)
        ticket = starting_point(cell, model, data, store)
        model.load_state_dict(ticket.weights)
        start, stop = cell.span
        lane = Lane(
            model.to(data.train.images.device),
            data,
            recipe_of(cell.setting, len(data.train), retrain=cell.round > 0),
            masks=ticket.masks,
            seed=derive(cell.seed, "training"),
            start=start,
            stop=stop,
            watch=watch,
            checkpoint=store.partial(cell.key),
        )
        return cls(cell, ticket, lane)

    def file(self, store: Store) -> None:
        """Put the finished cell into `store`."""
        about = {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(self.lane.seconds, 3),
            "environment": environment(self.lane.device),
            "products": self.lane.products,
        }
        if self.cell.arm in ("start", "ticket"):
            store.add(self.cell, self.ticket, self.lane.history, about, snapshot(self.lane.model))
        else:
            # a control's weights are a function of its seed, and no other cell needs them
            store.add(self.cell, replace(self.ticket, weights={}), self.lane.history, about, None)


def new_model(cell: Cell, data: DataSet, *stream: object) -> nn.Module:
    """The cell's network, freshly initialised; `stream` names another draw than that of the trial."""
    name, width = cell.setting.model.name, cell.setting.model.width
    draw = generator(cell.seed, "initialisation", *stream)
    return build(name, data.input_shape, len(data.classes), width=width, generator=draw)


def starting_point(cell: Cell, model: nn.Module, data: DataSet, store: Store) -> Ticket:
    """The masks and weights that the cell is trained from; `model` is as it was initialised."""
    if cell.arm in ("start", "ticket"):
        return _ticket(cell, model, store)
    assert cell.parent is not None
    ticket = store.ticket(cell.parent)
    masks = generator(cell.seed, "masks", cell.arm, cell.round)
    fresh = snapshot(new_model(cell, data, cell.arm, cell.round))
    match cell.arm:
        case "reinit":
            return reinitialised(ticket, fresh)
        case "shuffle":
            return shuffled(ticket, masks)
        case _:
            return randomised(ticket, fresh, masks)


def _ticket(cell: Cell, model: nn.Module, store: Store) -> Ticket:
    prune = cell.setting.prune
    weights = store.trained(cell.start) if cell.start else snapshot(model)
    masks = Masks.full(model, exclude=prune.exclude or None)
    if cell.round:
        assert cell.parent is not None
        parent = store.ticket(cell.parent)
        trained = store.trained(cell.parent)
        if diverged := [name for name in masks if trained[name].isnan().any()]:
            raise Diverged(f"{cell.label}: {diverged[0]} was trained to NaN a round earlier; lower train.lr")
        masks = prune_round(trained, parent.masks, rates_by_kind(model, parent.masks, prune), prune.scope)
        weights = weights if prune.retrain == "reset" else trained
    return Ticket(masks, weights, cell.round, {"study": "lottery-ticket", "cell": dict(cell.identity)})


def rates_by_kind(model: nn.Module, masks: Masks, prune: PruneConfig) -> dict[str, float]:
    """The rate of each masked parameter, by what its layer is."""
    output = prune.rate / 2 if prune.scope == "layerwise" else prune.rate
    rates = {"fc": prune.rate, "conv": prune.conv_rate, "output": prune.output_rate}
    defaults = {"fc": prune.rate, "conv": prune.rate, "output": output}
    kinds = {name: kind_of(model, name) for name in masks}
    return {name: defaults[k] if (rate := rates[k]) is None else rate for name, k in kinds.items()}


def environment(device: torch.device) -> Mapping[str, Any]:
    """What the numbers may depend on besides the cell's identity."""
    return {
        "prunus": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "kernels": module.instruction_set() if (module := native()) else "PyTorch's",
        "cores": os.cpu_count() or 0,
    }
