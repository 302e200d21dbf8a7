"""The masks of the recipe study."""

from torch import nn

from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.data import DataSet
from prunus.pruning import Magnitude
from prunus.studies.cells import Cell
from prunus.studies.kinds.initialization.config import InitialScoring
from prunus.studies.kinds.initialization.masks import criterion_of, found
from prunus.studies.kinds.recipe.config import TICKET, MaskConfig


def kept(model: nn.Module, density: float) -> int:
    """How many weights of `model` are kept at a density."""
    return round(density * sum(weight.numel() for weight in prunable(model).values()))


def mask_of(model: nn.Module, config: MaskConfig, density: float, cell: Cell, data: DataSet) -> Masks:
    """The mask of a cell's trial.

    Args:
        model: at its initial weights; for `ticket`, at those it was trained to.
        config: which mask.
        density: the fraction of weights that it keeps.
        cell: whose seed gives random scores and the examples that are looked at.
        data: of these examples.

    Raises:
        Invalid: if the layers cannot share the density as the scope or the floors say.
    """
    scoring = InitialScoring(criteria=(_criterion(config),), per_class=config.per_class, mode=config.mode)
    criterion = Magnitude() if config.name == TICKET else criterion_of(config.name, scoring, data)
    floors = {} if config.protect is None else {"protect": config.protect}
    return found(model, criterion, cell, data, keep=kept(model, density), scope=config.allocation, **floors)


def _criterion(config: MaskConfig) -> str:
    return "magnitude" if config.name == TICKET else config.name
