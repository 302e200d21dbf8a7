"""The work on one cell of the lottery-ticket study: where its training starts."""

from dataclasses import replace

from torch import nn

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import derive, generator
from prunus.data import DataSet
from prunus.models.roles import kind_of
from prunus.studies.cells import Cell
from prunus.studies.kinds.lottery_ticket.config import PruneConfig
from prunus.studies.kinds.lottery_ticket.grid import recipe_of
from prunus.studies.store import Store
from prunus.studies.work import GivenUp, Work, check_model, new_model
from prunus.tickets import Ticket, randomised, reinitialised, shuffled
from prunus.tickets.rounds import prune_round
from prunus.tickets.ticket import snapshot
from prunus.training import Lane
from prunus.training.lane import Watch


def check(cell: Cell, data: DataSet) -> None:
    """Refuse, before anything is trained, a network that cannot be made or pruned as the study says."""
    prune = cell.setting.prune
    network = check_model(cell, data)
    masks = Masks.full(network, exclude=prune.exclude or None)
    if not masks:
        raise Invalid(f"{cell.network}: prune.exclude is {list(prune.exclude)}, which leaves no layer to prune")
    rates_by_kind(network, masks, prune)


def begin(cell: Cell, data: DataSet, store: Store, watch: Watch | None = None) -> Work:
    """The work on `cell`, whose parents are in `store`; a checkpoint left by an earlier try will be used.

    Args:
        cell: what to train.
        data: its data, on the device to train on.
        store: where its parents lie and where it goes.
        watch: called with each evaluation.

    Raises:
        GivenUp: if its parent was trained to no number.
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
    if cell.arm in ("start", "ticket"):
        return Work(cell, lane, ticket, keep_trained=True)
    # a control's weights are a function of its seed, and no other cell needs them
    return Work(cell, lane, replace(ticket, weights={}))


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
            raise GivenUp(f"{cell.label}: {diverged[0]} was trained to NaN a round earlier; lower train.lr")
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
