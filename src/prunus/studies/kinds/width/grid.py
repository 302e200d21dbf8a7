"""The cells of the width study."""

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field, field_validator

from prunus.core.errors import Invalid
from prunus.data import DataSet
from prunus.studies.cells import Cell
from prunus.studies.config import Study
from prunus.studies.kinds.supermask.config import Density, MaskSetting
from prunus.studies.kinds.supermask.grid import Make, cells_of, checked, has_target

Factor = Annotated[float, Field(gt=0, le=100)]


class WideSetting(MaskSetting):
    """One network on one data set: a row of the figure.

    Attributes:
        widths: factors on the hidden layers, beside that of `model`.
        density: the fraction of weights that methods with a target keep.
    """

    widths: tuple[Factor, ...] = (0.25, 0.5, 1.0, 2.0)
    density: Density = 0.5

    @field_validator("widths")
    @classmethod
    def _distinct(cls, widths: tuple[float, ...]) -> tuple[float, ...]:
        if not widths or len(set(widths)) < len(widths):
            raise Invalid(f"widths is {list(widths)}; allowed: at least one, and each once")
        return tuple(sorted(widths))


class Width(Study[WideSetting]):
    """The width study, resolved."""


def expand(study: Width, data: Mapping[str, DataSet]) -> list[Cell]:
    """At each width the trained dense network, and the mask of each method."""

    def cells(make: Make, setting: MaskSetting) -> Iterator[Cell]:
        assert isinstance(setting, WideSetting)
        for place, width in enumerate(setting.widths):
            yield make.dense("trained", place, f"width {width:g}", width)
            for arm, config in setting.masks.items():
                density = setting.density if has_target(config, arm) else None
                yield make.masked(arm, place, f"width {width:g}", density, width)

    return checked(cells_of(study, data, cells), data)
