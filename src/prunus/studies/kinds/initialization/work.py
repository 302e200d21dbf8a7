"""A network that was pruned at initialization, put to training or only looked at."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from prunus.core.masks import Masks
from prunus.core.seeds import derive
from prunus.data import DataSet
from prunus.studies.cells import Cell
from prunus.studies.store import Store
from prunus.studies.work import Work
from prunus.tickets import Ticket
from prunus.training import Lane
from prunus.training.lane import Watch


def work_on(
    cell: Cell,
    model: nn.Module,
    masks: Masks,
    measures: Mapping[str, Any],
    data: DataSet,
    store: Store,
    watch: Watch | None,
) -> Work:
    """The work on a cell whose masks are found: it is trained if its identity says so."""
    # initial weights are a function of the seed, and no other cell needs the trained ones
    ticket = Ticket(masks.to("cpu"), {}, 0, {"study": cell.kind, "cell": dict(cell.identity)})
    if not cell.trains:
        return Work(cell, None, ticket, measures=measures)
    lane = Lane(
        model,
        data,
        cell.recipe,
        masks=masks,
        seed=derive(cell.seed, "training"),
        watch=watch,
        checkpoint=store.partial(cell.key),
    )
    return Work(cell, lane, ticket, measures=measures)
