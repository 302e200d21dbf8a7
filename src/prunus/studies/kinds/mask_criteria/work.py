"""The work on one cell of the mask-criteria study: its masks, where its training starts, and what holds through it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import derive, generator
from prunus.data import DataSet
from prunus.studies.cells import Cell
from prunus.studies.kinds.lottery_ticket.config import PruneConfig
from prunus.studies.kinds.lottery_ticket.work import rates_by_kind
from prunus.studies.store import Store
from prunus.studies.work import GivenUp, Work, check_model, new_model
from prunus.tickets import Start, Ticket, masks_by, started
from prunus.tickets.ticket import snapshot
from prunus.training import Lane
from prunus.training.evaluate import evaluate
from prunus.training.lane import Watch

#: Tensors by name.
Weights = Mapping[str, Tensor]


def check(cell: Cell, data: DataSet) -> None:
    """Refuse, before anything is trained, a network that cannot be made, or of which nothing is left to prune."""
    exclude = cell.setting.prune.exclude
    if not Masks.full(check_model(cell, data), exclude=exclude or None):
        raise Invalid(f"{cell.network}: prune.exclude is {list(exclude)}, which leaves no layer to prune")


def begin(cell: Cell, data: DataSet, store: Store, watch: Watch | None = None) -> Work:
    """The work on `cell`, whose parents are in `store`.

    What a criterion's masks come to without any training is measured at once: on the initial weights, and where each
    is the standard deviation of its layer under its own sign.

    Raises:
        GivenUp: if the weights that its masks are made from were trained to no number.
        Invalid: if a file of its parents is damaged.
    """
    model = new_model(cell, data)
    initial = snapshot(model)
    masks, final = _masks(cell, model, initial, store)
    start = _start(cell, data, initial, final, masks)
    model.to(data.train.images.device)
    measures = {} if cell.start else _untrained(cell, model, data, initial, final, masks)
    model.load_state_dict(start.weights)
    zeroed = cell.identity.get("zero", "zero") == "zero"
    lane = Lane(
        model,
        data,
        cell.recipe,
        masks=masks if zeroed else None,
        seed=derive(cell.seed, "training"),
        watch=watch,
        checkpoint=store.partial(cell.key),
        method=None if zeroed else partial(KeepFrozen, start),
    )
    if cell.start:  # no other cell needs anything of an action
        return Work(cell, lane, layers=masks.layers, measures={"criterion": cell.identity["criterion"]})
    # the initial weights are a function of the seed
    ticket = Ticket(masks, {}, cell.round, {"study": cell.kind, "cell": dict(cell.identity)})
    return Work(cell, lane, ticket, measures=measures, keep_trained=True)


class KeepFrozen:
    """Writes the frozen weights of a `Start` back after each step, bit for bit, as a method of a `Lane`.

    Their gradients are not zeroed, and need not be: all optimizers of a recipe go weight by weight, so a gradient, its
    moments and its decay move the weight that they belong to and no other. There is nothing for a checkpoint to keep.

    Args:
        start: what is frozen, at which value.
        model: in training, in float32.
    """

    def __init__(self, start: Start, model: nn.Module, _optimizer: torch.optim.Optimizer) -> None:
        parameters, self._frozen = dict(model.named_parameters()), []
        for name, trained in start.trainable.items():
            parameter = parameters[name].detach()
            # as integers: all bits set where a weight is trained; "and" and "or" are exact, and a tenth of the time of
            # torch.where on one core
            keep = trained.to(parameter.device, torch.int32).neg_()
            values = start.weights[name].to(parameter).view(torch.int32) & ~keep
            self._frozen.append((parameter.view(torch.int32), keep, values))

    def step(self) -> None:
        """Put the frozen weights back."""
        for weight, keep, values in self._frozen:
            weight.bitwise_and_(keep).bitwise_or_(values)

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing."""


def _masks(cell: Cell, model: nn.Module, initial: Weights, store: Store) -> tuple[Masks, Weights]:
    """The masks of the cell, and what weights were last trained to (if dense, the initial ones)."""
    prune = cell.setting.prune
    if cell.parent is None:
        return Masks.full(model, exclude=prune.exclude or None), initial
    if cell.start:
        return store.ticket(cell.parent).masks, _last_trained(cell.identity["line"], store)
    before, final = store.ticket(cell.parent).masks, store.trained(cell.parent)
    if diverged := [name for name in before if final[name].isnan().any()]:
        raise GivenUp(f"{cell.label}: {diverged[0]} was trained to NaN a round earlier; lower train.lr")
    rates = rates_by_kind(model, before, PruneConfig(**prune.model_dump()))
    criterion = cell.identity["criterion"]
    draw = generator(cell.seed, "masks", criterion, cell.round)
    return masks_by(criterion, initial, final, before, rates, draw), final


def _last_trained(line: Sequence[str], store: Store) -> Weights:
    """What each weight was trained to in the last round that kept it, from the cells of all rounds in their order.

    In later rounds it was zero. Whether training made it smaller is not for them to say.
    """
    last = store.trained(line[0])
    for key in line[1:]:
        masks, trained = store.ticket(key).masks, store.trained(key)
        last |= {name: torch.where(mask, trained[name], last[name]) for name, mask in masks.items()}
    return last


def _start(cell: Cell, data: DataSet, initial: Weights, final: Weights, masks: Masks) -> Start:
    if cell.parent is None:
        return Start(initial, masks)
    one, zero = cell.identity["one"], cell.identity["zero"]
    # with and without the initial signs an action draws the same numbers, so that the two differ in the signs alone
    drawn = one.removeprefix("signed-")
    fresh = new_model(cell, data, "reinit", cell.round) if drawn == "reinit" else None
    draw = generator(cell.seed, "actions", drawn, zero, cell.round)
    return started(initial, final, masks, one, zero, fresh, draw)


def _untrained(
    cell: Cell, model: nn.Module, data: DataSet, initial: Weights, final: Weights, masks: Masks
) -> dict[str, float]:
    """Accuracies (fractions) of the masked network without training: what is chosen on one split is told of another."""
    found = {}
    for weights, one in (("initial", "rewind"), ("constant", "signed-constant")):
        # a constant permutes its signs before it takes the initial ones, which shows where a weight is exactly zero
        draw = generator(cell.seed, "actions", "untrained", cell.round)
        model.load_state_dict(started(initial, final, masks, one, generator=draw).weights)
        for split in ("validation", "test"):
            accuracy = evaluate(model, data, getattr(data, split), cell.recipe.precision)[1]
            found[f"{weights}_{split}"] = accuracy
    return found
