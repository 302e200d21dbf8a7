"""The work on one cell of the same-ticket study. All draws are streams of the trial's seed."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from prunus.core.apply import masks_of
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.core.seeds import derive, generator
from prunus.core.select import select_counts
from prunus.data import DataSet
from prunus.models import build
from prunus.studies.cells import Cell
from prunus.studies.kinds.same_ticket.overlap import overlap
from prunus.studies.kinds.supermask.grid import method_of
from prunus.studies.store import Store
from prunus.studies.work import GivenUp, Work
from prunus.supermasks import supermask
from prunus.supermasks.weights import Origin, draw_weights
from prunus.tickets import Ticket
from prunus.training import Lane
from prunus.training.lane import Watch


def network(cell: Cell, data: DataSet, gain: float = 1.0) -> nn.Module:
    """The cell's network with the initial weights of its init, times `gain`: the same for all methods."""
    model, init = cell.setting.model, cell.identity["init"]
    draw = generator(cell.seed, "initialisation", init)
    built = build(model.name, data.input_shape, len(data.classes), width=model.width, generator=draw)
    draw_weights(built, Origin(cell.identity["weights"], derive(cell.seed, "weights", init), gain))
    return built


def check(cell: Cell, data: DataSet) -> None:
    """Refuse a network that cannot be made, or a density that keeps none of the weights of a layer."""
    try:
        model = network(cell, data)
    except (RuntimeError, MemoryError) as error:
        reason = (str(error).splitlines() or ["out of memory"])[0]
        raise Invalid(f"{cell.network}: model {cell.setting.model.name!r} cannot be made ({reason})") from error
    least = min(cell.setting.densities)
    for name, weight in prunable(model).items():
        if round(least * weight.numel()) < 1:
            what = f"densities has {least:g}, which keeps none of the {weight.numel():,} weights of {name}"
            raise Invalid(f"{cell.network}: {what}; allowed: more")


def begin(cell: Cell, data: DataSet, store: Store, watch: Watch | None = None) -> Work:
    """The work on `cell`, whose parents are in `store`.

    Raises:
        GivenUp: if its parent was trained to no number.
        Invalid: if a file of its parents is damaged.
    """
    return _WORK[cell.identity["work"]](cell, data, store, watch)


def largest(weights: Mapping[str, Tensor], density: float) -> Masks:
    """Masks that keep the `round(density × n)` largest of the n weights of each layer, by absolute value."""
    sizes = {name: weight.detach().abs() for name, weight in weights.items()}
    return select_counts(sizes, {name: round(density * size.numel()) for name, size in sizes.items()})


def _train_dense(cell: Cell, data: DataSet, store: Store, watch: Watch | None) -> Work:
    model = network(cell, data)
    layers = Masks.full(model).layers
    return Work(cell, _lane(cell, model, data, store, watch), layers=layers, measures=_said(cell), keep_trained=True)


def _find_largest(cell: Cell, data: DataSet, store: Store, _watch: Watch | None) -> Work:
    assert cell.parent is not None
    trained = store.trained(cell.parent)
    weights = {name: trained[name] for name in prunable(network(cell, data))}
    if diverged := [name for name, weight in weights.items() if weight.isnan().any()]:
        raise GivenUp(f"{cell.label}: {diverged[0]} was trained to NaN; lower train.lr")
    return Work(cell, ticket=_ticket(cell, largest(weights, cell.identity["density"])), measures=_said(cell))


def _learn(cell: Cell, data: DataSet, store: Store, watch: Watch | None) -> Work:
    mask = cell.identity["mask"]
    method = method_of(mask)
    model = network(cell, data, (method.target or 1.0) ** -0.5 if mask["scaled"] else 1.0)
    supermask(model, method, seed=derive(cell.seed, "scores", cell.identity["scores"]))

    def found(trained: nn.Module) -> Ticket:
        return _ticket(cell, masks_of(trained).to("cpu"))

    return Work(cell, _lane(cell, model, data, store, watch), measures=_said(cell), found=found)


def _compare(cell: Cell, _data: DataSet, store: Store, _watch: Watch | None) -> Work:
    assert cell.start is not None
    assert cell.parent is not None
    both = overlap(store.ticket(cell.start).masks, store.ticket(cell.parent).masks)
    names = ("shared", "expected", "common", "chance", "jaccard", "jaccard_chance", "z")
    return Work(cell, measures={**_said(cell), **{name: getattr(both, name) for name in names}})


def _train_ticket(cell: Cell, data: DataSet, store: Store, watch: Watch | None) -> Work:
    """The ticket of the parent's masks, or of random masks that keep as many weights in each layer."""
    assert cell.parent is not None
    masks = store.ticket(cell.parent).masks
    if "draw" in cell.identity:
        masks = masks.shuffled(generator(cell.seed, "masks", "random", cell.identity["draw"]))
    lane = _lane(cell, network(cell, data), data, store, watch, masks)
    return Work(cell, lane, _ticket(cell, masks), measures=_said(cell))


def _lane(
    cell: Cell, model: nn.Module, data: DataSet, store: Store, watch: Watch | None, masks: Masks | None = None
) -> Lane:
    return Lane(
        model.to(data.train.images.device),
        data,
        cell.recipe,
        masks=masks,
        seed=derive(cell.seed, "order", cell.identity["order"]),
        watch=watch,
        checkpoint=store.partial(cell.key),
    )


def _ticket(cell: Cell, masks: Masks) -> Ticket:
    # the initial weights are a function of the seed
    return Ticket(masks, {}, 0, {"study": cell.kind, "cell": dict(cell.identity)})


def _said(cell: Cell) -> dict[str, Any]:
    names = ("density", "init", "order", "scores", "draw")
    return {name: cell.identity[name] for name in names if name in cell.identity}


_WORK: Mapping[str, Callable[[Cell, DataSet, Store, Watch | None], Work]] = {
    "dense": _train_dense,
    "largest": _find_largest,
    "learned": _learn,
    "pair": _compare,
    "ticket": _train_ticket,
}
