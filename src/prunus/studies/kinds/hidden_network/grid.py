"""The cells of the hidden-network study."""

from collections.abc import Iterator, Mapping

from pydantic import field_validator

from prunus.core.errors import Invalid
from prunus.data import DataSet
from prunus.studies.cells import Cell
from prunus.studies.config import Study
from prunus.studies.kinds.supermask.config import Density, MaskSetting
from prunus.studies.kinds.supermask.grid import Make, cells_of, checked, has_target


class Setting(MaskSetting):
    """One network on one data set: a row of the figure.

    Attributes:
        densities: the fractions of weights that methods with a target keep.
    """

    densities: tuple[Density, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)

    @field_validator("densities")
    @classmethod
    def _distinct(cls, densities: tuple[float, ...]) -> tuple[float, ...]:
        if not densities or len(set(densities)) < len(densities):
            raise Invalid(f"densities is {list(densities)}; allowed: at least one, and each once")
        return tuple(sorted(densities, reverse=True))


class HiddenNetwork(Study[Setting]):
    """The hidden-network study, resolved."""


def expand(study: HiddenNetwork, data: Mapping[str, DataSet]) -> list[Cell]:
    """The dense network, and each method at each density; methods without a target once."""

    def cells(make: Make, setting: MaskSetting) -> Iterator[Cell]:
        assert isinstance(setting, Setting)
        yield make.dense("dense", 0, "density 1")
        for arm, config in setting.masks.items():
            if not has_target(config, arm):
                yield make.masked(arm, 0, "at a density of its own", None)
                continue
            for place, density in enumerate(setting.densities, 1):
                yield make.masked(arm, place, f"density {density:g}", density)

    return checked(cells_of(study, data, cells), data)
