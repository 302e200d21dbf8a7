"""The work of one cell: its starting point, its training, its files."""

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

from prunus._version import __version__
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import derive, generator
from prunus.data import DataSet
from prunus.models import build
from prunus.models.roles import kind_of
from prunus.studies.cells import Cell, recipe_of
from prunus.studies.config import PruneConfig
from prunus.studies.store import Store
from prunus.tickets import Ticket, randomised, reinitialised, shuffled
from prunus.tickets.rounds import prune_round
from prunus.tickets.ticket import snapshot
from prunus.training import Checkpointing, History, train
from prunus.training.loop import Watch


def work(cell: Cell, data: DataSet, store: Store, device: str, watch: Watch, checkpoint_every: float) -> History:
    """Train `cell`, whose parents are in `store`, and file it there; a checkpoint left by an earlier try is used.

    Args:
        cell: what to train.
        data: its data, on `device`.
        store: where its parents lie and where it goes.
        device: where to train.
        watch: called with each evaluation.
        checkpoint_every: seconds between checkpoints.
    """
    began = time.monotonic()
    model = new_model(cell, data)
    ticket = starting_point(cell, model, data, store)
    model.load_state_dict(ticket.weights)
    model.to(device)
    start, stop = cell.span
    history = train(
        model,
        data,
        recipe_of(cell.setting, len(data.train), retrain=cell.round > 0),
        masks=ticket.masks,
        seed=derive(cell.seed, "training"),
        start=start,
        stop=stop,
        watch=watch,
        checkpointing=Checkpointing(store.partial(cell.key), checkpoint_every),
    )
    about = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began, 3),
        "environment": environment(device),
    }
    if cell.arm in ("start", "ticket"):
        store.add(cell, ticket, history, about, snapshot(model))
    else:
        # a control's weights are a function of its seed, and no other cell needs them
        store.add(cell, replace(ticket, weights={}), history, about, None)
    return history


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
            raise Invalid(f"{cell.label}: {diverged[0]} was trained to NaN a round earlier; lower train.lr")
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


def environment(device: str) -> Mapping[str, Any]:
    """What the numbers may depend on besides the cell's identity."""
    return {
        "prunus": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count() or 0,
    }
