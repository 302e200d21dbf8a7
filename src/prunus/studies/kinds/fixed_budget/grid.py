"""The cells of the fixed-budget study."""

from collections.abc import Iterator, Mapping

from prunus.core.errors import Invalid
from prunus.data import DataSet
from prunus.studies.cells import Cell
from prunus.studies.config import Study
from prunus.studies.kinds.supermask.config import MaskSetting
from prunus.studies.kinds.supermask.grid import Make, cells_of, checked, has_target
from prunus.studies.kinds.supermask.shapes import weights_of
from prunus.studies.kinds.width.grid import WideSetting


class FixedBudget(Study[WideSetting]):
    """The fixed-budget study, resolved. `density` is that of the network at width 1."""


def expand(study: FixedBudget, data: Mapping[str, DataSet]) -> list[Cell]:
    """The trained dense network at width 1, and the mask of each method at each width."""

    def cells(make: Make, setting: MaskSetting) -> Iterator[Cell]:
        assert isinstance(setting, WideSetting)
        yield make.dense("dense", 0, "width 1")
        there = make.data
        budget = round(setting.density * _weights(setting, there, 1.0))
        for arm, config in setting.masks.items():
            if not has_target(config, arm):
                raise Invalid(f"masks has {arm!r}, which has no density to be told; allowed: methods that keep one")
            for place, width in enumerate(setting.widths, 1):
                total = _weights(setting, there, width)
                if budget > total:
                    raise Invalid(
                        f"widths has {width:g}, where there are {total:,} weights for the {budget:,} that "
                        f"density {setting.density:g} keeps at width 1; allowed: wider ones"
                    )
                yield make.masked(arm, place, f"width {width:g}", budget / total, width)

    return checked(cells_of(study, data, cells), data)


def _weights(setting: WideSetting, data: DataSet, width: float) -> int:
    return sum(weight.numel() for weight in weights_of(setting, width, data).values())
