"""The work on a cell that trains a sparse network, or the dense one beside it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from prunus.analysis import costs
from prunus.core.apply import apply, masks_of
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import derive
from prunus.data import DataSet
from prunus.pruning import Magnitude, prune
from prunus.sparse_training import SparseTraining
from prunus.sparse_training.flops import flops
from prunus.studies.cells import Cell
from prunus.studies.kinds.initialization.masks import example_of
from prunus.studies.kinds.sparse_training.narrow import measured as narrow_measures
from prunus.studies.kinds.sparse_training.narrow import narrow_model
from prunus.studies.kinds.sparse_training.options import make
from prunus.studies.store import Store
from prunus.studies.work import GivenUp, Work, new_model
from prunus.tickets import Ticket
from prunus.training import Lane
from prunus.training.lane import Watch


class Making:
    """Makes a cell's method when its training begins, and keeps it for the measures.

    Args:
        cell: whose.
    """

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._made: SparseTraining | None = None

    def __call__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> SparseTraining:
        self._made = make(self._cell.identity["method"], model, optimizer, derive(self._cell.seed, "masks"))
        return self._made

    @property
    def made(self) -> SparseTraining:
        """The method, once training has begun."""
        assert self._made is not None
        return self._made


def lane_of(cell: Cell, model: nn.Module, data: DataSet, store: Store, watch: Watch | None, **how: Any) -> Lane:
    """The training of a cell.

    Args:
        cell: which.
        model: where it starts.
        data: on the device to train on.
        store: where its checkpoints lie.
        watch: called with each evaluation.
        how: masks or method.
    """
    start, stop = cell.span
    return Lane(
        model.to(data.train.images.device),
        data,
        cell.recipe,
        seed=derive(cell.seed, "training"),
        start=start,
        stop=stop,
        watch=watch,
        checkpoint=store.partial(cell.key),
        **how,
    )


def begin(cell: Cell, data: DataSet, store: Store, watch: Watch | None = None) -> Work:
    """The work on a cell of the sparse-training study."""
    if "method" in cell.identity:
        return _sparse(cell, data, store, watch)
    if cell.start:
        return _pruned(cell, data, store, watch)
    narrow = "width" in cell.identity
    model = narrow_model(cell, data) if narrow else new_model(cell, data)
    lane = lane_of(cell, model, data, store, watch)
    said: dict[str, float] = dict.fromkeys(("density", "inference", "training"), 1.0)
    if narrow:
        said = narrow_measures(cell, lane.model, data)
    # the trained weights are what is pruned
    return Work(cell, lane, layers=Masks.full(model).layers, measures=said, keep_trained=not narrow)


def _sparse(cell: Cell, data: DataSet, store: Store, watch: Watch | None) -> Work:
    """A network that a method holds sparse."""
    making = Making(cell)
    lane = lane_of(cell, new_model(cell, data), data, store, watch, method=making)

    def after(trained: nn.Module) -> Mapping[str, Any]:
        return measured(making.made, trained, cell, data)

    return Work(cell, lane, after=after, found=lambda trained: ticket_of(cell, masks_of(trained)))


def _pruned(cell: Cell, data: DataSet, store: Store, watch: Watch | None) -> Work:
    """The trained dense network, pruned by global magnitude, trained on."""
    assert cell.start is not None
    model = new_model(cell, data)
    model.load_state_dict(store.trained(cell.start))
    model.to(data.train.images.device)
    try:
        masks = prune(model, Magnitude(), cell.identity["density"], protect=1, **cell.identity["layers"])
    except Invalid as error:
        raise GivenUp(f"{cell.label}: {error}") from error
    counted = costs(model, masks, example_of(data)).total
    inference = counted.kept_macs / counted.macs
    first, last = cell.span
    said = {
        "density": masks.density,
        "inference": inference,
        "training": 1 + inference * (last - first) / int(cell.recipe.iterations),
    }
    lane = lane_of(cell, model, data, store, watch, masks=masks)
    return Work(cell, lane, ticket_of(cell, masks.to("cpu")), measures=said)


def ticket_of(cell: Cell, masks: Masks) -> Ticket:
    """The masks, as they are filed."""
    return Ticket(masks.to("cpu"), {}, 0, {"study": cell.kind, "cell": dict(cell.identity)})


def measured(method: SparseTraining, model: nn.Module, cell: Cell, data: DataSet) -> dict[str, Any]:
    """Density, and FLOPs beside those of the dense network and of its training."""
    found = flops(method, costs(model, inputs=example_of(data)))
    own = [int(cell.recipe.iterations) // cell.identity["length"], cell.recipe.batch]
    iterations, batch = cell.identity.get("beside", own)  # of the dense network's training
    seen = method.steps * cell.recipe.batch / (iterations * batch)
    return {
        "density": method.masks.density,
        "inference": found.inference_share,
        "training": found.training_share * seen,
    }


def stand_in(cell: Cell, data: DataSet) -> nn.Module:
    """The cell's network as it is trained: under masks where a method holds it."""
    model = narrow_model(cell, data) if "width" in cell.identity else new_model(cell, data)
    if "method" in cell.identity:
        apply(model, Masks.full(model))
    return model
