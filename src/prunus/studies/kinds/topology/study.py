"""The cells of the topology study."""

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field, field_validator

from prunus.core.errors import Invalid
from prunus.data import DataSet
from prunus.studies.cells import Cell
from prunus.studies.config import Study
from prunus.studies.kinds.sparse_training.arms import WITHOUT_TARGET
from prunus.studies.kinds.sparse_training.config import Density, SparseSetting
from prunus.studies.kinds.sparse_training.grid import Make, cells_of


class Setting(SparseSetting):
    """One network at one density: a row of the figure.

    Attributes:
        density: of methods that are told one.
        looks: how many points of the training are reported, from 1 to 200, evenly spread; updates between them count.
    """

    density: Density = 0.05
    looks: Annotated[int, Field(ge=1, le=200)] = 20

    @field_validator("arms")
    @classmethod
    def _some(cls, arms: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if arms == ():
            raise Invalid("arms is []; allowed: at least one")
        return arms


class TopologyStudy(Study[Setting]):
    """The topology study, resolved."""


def expand(study: TopologyStudy, data: Mapping[str, DataSet]) -> list[Cell]:
    """Each method once."""
    return cells_of(study, data, _cells)


def _cells(make: Make, setting: Setting) -> Iterator[Cell]:
    for arm, config in setting.methods.items():
        target = config.method_of(arm) not in WITHOUT_TARGET
        (density, *_) = config.densities or (setting.density,)
        (length, *_) = config.lengths or (1,)
        yield make.sparse(arm, int(target), density if target else None, length, looks=setting.looks)
