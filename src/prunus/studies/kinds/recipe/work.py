"""The work on a cell of the recipe study: its mask, or a training under it."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core.apply import apply
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import derive, generator
from prunus.data import DataSet
from prunus.sparse_training.tost import ToST, rescale_init
from prunus.studies.cells import START, Cell
from prunus.studies.kinds.recipe.config import MaskConfig
from prunus.studies.kinds.recipe.masks import kept, mask_of
from prunus.studies.store import Store
from prunus.studies.work import GivenUp, Work, new_model
from prunus.tickets import Ticket
from prunus.training import Lane, Recipe
from prunus.training.lane import MakeMethod, Watch


def begin(cell: Cell, data: DataSet, store: Store, watch: Watch | None = None) -> Work:
    """Find the mask, or train under it.

    Raises:
        GivenUp: if there is no such mask, or the initial weights cannot be rescaled.
    """
    model = new_model(cell, data)
    if cell.arm == START:
        return _mask(cell, model, data, store)
    model.to(data.train.images.device)
    if cell.arm == "dense":
        lane = _lane(cell, model, data, store, watch)
        return Work(cell, lane, layers=Masks.full(model).layers, measures={"density": 1.0}, keep_trained=True)
    assert cell.start is not None
    masks = store.ticket(cell.start).masks.to(data.train.images.device)
    if "rescaled_init" in cell.identity["switches"]:
        _rescale(cell, model, masks, data)
    lane = _lane(cell, model, data, store, watch, masks=masks, method=method_of(cell))
    return Work(cell, lane, layers=masks.layers, after=lambda trained: _measured(cell, lane, trained, data, store))


def method_of(cell: Cell) -> MakeMethod | None:
    """What of the recipe acts during the training of a cell; None where nothing does."""
    parts = ("soft_neurons", "ghost_skips", "label_smoothing")
    switches: dict[str, Any] = {part: cell.identity["switches"].get(part, False) for part in parts}
    if not any(options is not False for options in switches.values()):
        return None
    if switches["ghost_skips"] is not False:
        switches["ghost_skips"] = {"seed": derive(cell.seed, "ghost skips"), **switches["ghost_skips"]}
    return partial(ToST, total_steps=cell.iterations, **switches)


def rescaling(options: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The options of `rescale_init` before a training."""
    return {**options, "optimizer": options.get("optimizer") or ("sgd" if recipe.optimizer == "sgd" else "adam")}


def stand_in(cell: Cell, data: DataSet) -> nn.Module:
    """The cell's network, held by masks where the recipe acts on it, so that it is computed in the same way."""
    model = new_model(cell, data)
    if "switches" in cell.identity and method_of(cell):
        apply(model, Masks.full(model))
    return model


class Batches:
    """The training examples in batches of the cell's size, as the network takes them, in an order of their own.

    Args:
        cell: whose batches.
        data: on the device to compute on.
    """

    def __init__(self, cell: Cell, data: DataSet) -> None:
        self._cell, self._data = cell, data

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        data, size = self._data, self._cell.recipe.batch
        order = torch.randperm(len(data.train), generator=generator(self._cell.seed, "rescaling"))
        for part in order.split(size):
            if len(part) == size:
                examples = data.train[part.to(data.train.labels.device)]
                yield data.normalise(examples.images), examples.labels


def _mask(cell: Cell, model: nn.Module, data: DataSet, store: Store) -> Work:
    if cell.start is not None:
        model.load_state_dict(store.trained(cell.start))
    model.to(data.train.images.device)
    config = MaskConfig(**cell.identity["mask"])
    try:
        masks = mask_of(model, config, cell.identity["density"], cell, data).to("cpu")
    except Invalid as error:
        raise GivenUp(f"{cell.label}: {error}") from error
    return Work(cell, None, Ticket(masks, {}, 0, {"study": cell.kind, "cell": dict(cell.identity)}))


def _rescale(cell: Cell, model: nn.Module, masks: Masks, data: DataSet) -> None:
    options = rescaling(cell.identity["switches"]["rescaled_init"], cell.recipe)
    handle = apply(model, masks)
    try:
        rescale_init(model, Batches(cell, data), **options)
    except Invalid as error:
        raise GivenUp(f"{cell.label}: {error}") from error
    finally:
        handle.remove()


def _lane(cell: Cell, model: nn.Module, data: DataSet, store: Store, watch: Watch | None, **how: Any) -> Lane:
    seed, checkpoint = derive(cell.seed, "training"), store.partial(cell.key)
    return Lane(model, data, cell.recipe, seed=seed, watch=watch, checkpoint=checkpoint, **how)


def _measured(cell: Cell, lane: Lane, trained: nn.Module, data: DataSet, store: Store) -> dict[str, Any]:
    """The density, and what was gained over plain training."""
    assert lane.masks is not None
    check_plain(trained, lane.masks, cell, data)
    measures = {"density": lane.masks.density}
    if cell.parent is None:
        return measures
    plain = store.history(cell.parent)
    assert plain is not None
    return {**measures, "gain": 100 * (lane.history.final.test_accuracy - plain.final.test_accuracy)}


def check_plain(trained: nn.Module, masks: Masks, cell: Cell, data: DataSet) -> None:
    """See that a trained network is the plain sparse one: its layers, no hooks, the exact number of weights."""
    plain = new_model(cell, data)
    assert [(name, type(layer)) for name, layer in trained.named_modules()] == [
        (name, type(layer)) for name, layer in plain.named_modules()
    ], f"{cell.label}: layers of the recipe are left"
    assert trained.state_dict().keys() == plain.state_dict().keys(), f"{cell.label}: weights of the recipe are left"
    assert not any(layer._forward_hooks for layer in trained.modules()), f"{cell.label}: hooks of the recipe are left"
    assert masks.kept == kept(plain, cell.identity["density"]), f"{cell.label}: the density is not exact"
    weights = trained.state_dict()
    outside = sum(int(weights[name][~mask.to(weights[name].device)].count_nonzero()) for name, mask in masks.items())
    assert outside == 0, f"{cell.label}: {outside} masked weights are not zero"
