"""The work on a cell that learns a mask, or trains the dense network beside it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from prunus.core.apply import masks_of
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import derive, generator
from prunus.data import DataSet
from prunus.models import build
from prunus.studies.cells import Cell
from prunus.studies.kinds.supermask.grid import method_of
from prunus.studies.store import Store
from prunus.studies.work import Work
from prunus.supermasks import Bernoulli, Supermask, supermask, supermask_of
from prunus.tickets import Ticket
from prunus.training import Lane
from prunus.training.lane import Watch


def network(cell: Cell, data: DataSet) -> nn.Module:
    """The cell's network at its own width, freshly initialised."""
    model = cell.setting.model
    width = model.width * cell.identity["width"]
    draw = generator(cell.seed, "initialisation")
    return build(model.name, data.input_shape, len(data.classes), width=width, generator=draw)


def masked(cell: Cell, model: nn.Module) -> Supermask:
    """The supermask of the cell on its network, not trained yet."""
    mask = cell.identity["mask"]
    seed = derive(cell.seed, "weights")
    return supermask(model, method_of(mask), weights=mask["weights"], seed=seed, scaled=mask["scaled"])


def stand_in(cell: Cell, data: DataSet) -> nn.Module:
    """The cell's network as it is trained: with its scores, where it learns them."""
    model = network(cell, data)
    if "mask" in cell.identity:
        masked(cell, model)
    return model


def check(cell: Cell, data: DataSet) -> None:
    """Refuse a network that cannot be made, or a mask that keeps nothing."""
    try:
        model = network(cell, data)
        if "mask" in cell.identity:
            masked(cell, model)
    except (RuntimeError, MemoryError) as error:
        reason = (str(error).splitlines() or ["out of memory"])[0]
        raise Invalid(f"{cell.label}: model {cell.setting.model.name!r} cannot be made ({reason})") from error
    except Invalid as error:
        raise Invalid(f"{cell.label}: {error}") from error


def begin(cell: Cell, data: DataSet, store: Store, watch: Watch | None = None) -> Work:
    """The work on a cell: train the network's scores, or its weights."""
    model = network(cell, data)
    full = Masks.full(model)
    learned = "mask" in cell.identity
    if learned:
        masked(cell, model)
    lane = Lane(
        model.to(data.train.images.device),
        data,
        cell.recipe,
        seed=derive(cell.seed, "training"),
        watch=watch,
        checkpoint=store.partial(cell.key),
    )
    said = {"width": cell.identity["width"], "density": cell.identity["density"]}
    if not learned:
        return Work(cell, lane, layers=full.layers, measures=said)

    def found(trained: nn.Module) -> Ticket:
        # the weights are a function of the seed
        return Ticket(masks_of(trained).to("cpu"), {}, 0, {"study": cell.kind, "cell": dict(cell.identity)})

    return Work(cell, lane, measures=said, after=realised, found=found)


def realised(model: nn.Module) -> Mapping[str, Any]:
    """The density that the network computes with: that of the masks, or the mean probability where they are drawn."""
    learned = supermask_of(model)
    if not isinstance(learned.method, Bernoulli):
        return {"density": masks_of(model).density}
    with torch.no_grad():
        sums = [(torch.sigmoid(s).sum(dtype=torch.float64).item(), s.numel()) for s in learned.scores]
    return {"density": sum(total for total, _ in sums) / sum(size for _, size in sums)}
