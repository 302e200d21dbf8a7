"""The cells of the sanity study: a mask as its criterion made it, and what should be worse and may not be."""

from collections.abc import Iterator, Mapping
from typing import Literal

from torch import nn

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.data import DataSet
from prunus.pruning import Inverted
from prunus.studies.cells import Cell
from prunus.studies.config import BaseSetting, Study
from prunus.studies.kinds.initialization.config import InitialSetting
from prunus.studies.kinds.initialization.grid import Make, cells_of
from prunus.studies.kinds.initialization.masks import criterion_of, example_of, found
from prunus.studies.kinds.initialization.measures import measured
from prunus.studies.kinds.initialization.work import work_on
from prunus.studies.store import Store
from prunus.studies.work import Work, new_model
from prunus.training.lane import Watch

Control = Literal["original", "shuffled", "reinitialised", "inverted"]

#: Places of one criterion, on the axis of all: more than there are ratios.
SPACE = 1000


class PaiSanity(Study[InitialSetting]):
    """The sanity study, resolved.

    Attributes:
        arms: the controls beside the mask as it is.
    """

    arms: tuple[Control, ...] = ("original", "shuffled", "reinitialised", "inverted")


def expand(study: PaiSanity, data: Mapping[str, DataSet]) -> list[Cell]:
    """The dense network, then each criterion at each ratio in each arm."""

    def cells(make: Make, setting: BaseSetting) -> Iterator[Cell]:
        assert isinstance(setting, InitialSetting)
        yield make("dense", 0, "dense", trains=True)
        for i, criterion in enumerate(setting.prune.criteria):
            for j, exponent in enumerate(sorted({*setting.prune.exponents} - {0.0}), 1):
                for arm in study.arms:
                    said = f"{criterion} at 10^{exponent:g}"
                    yield make(arm, i * SPACE + j, said, True, exponent, criterion=criterion)

    return cells_of(study, data, cells)


def begin(cell: Cell, data: DataSet, store: Store, watch: Watch | None = None) -> Work:
    """Find the mask, do to it what the arm says, and train."""
    model = new_model(cell, data).to(data.train.images.device)
    if cell.arm == "dense":
        return work_on(cell, model, Masks.full(model), {"criterion": ""}, data, store, watch)
    masks = _masks(cell, model, data)
    if cell.arm == "reinitialised":
        model.load_state_dict(new_model(cell, data, "reinitialised").state_dict())
    measures = {"criterion": cell.identity["criterion"], **measured(model, masks, example_of(data))}
    return work_on(cell, model, masks, measures, data, store, watch)


def _masks(cell: Cell, model: nn.Module, data: DataSet) -> Masks:
    prune = cell.setting.prune
    criterion = criterion_of(cell.identity["criterion"], prune, data)
    if cell.arm == "inverted":
        criterion = Inverted(criterion)
    more = {} if prune.protect is None else {"protect": prune.protect}
    masks = found(model, criterion, cell, data, exponent=cell.identity["exponent"], **more)
    if cell.arm != "shuffled":
        return masks
    shuffled = masks.shuffled(generator(cell.seed, "masks", "shuffled", cell.round))
    if shuffled == masks and any(0 < layer.kept < layer.total for layer in masks.layers):
        raise Invalid(f"{cell.label}: the shuffled mask is the mask itself")
    return shuffled
