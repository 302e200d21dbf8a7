"""A dense network as small as the sparse ones: the same, with fewer units in each layer.

What any sparse network has to beat, since it needs no sparse products.
"""

from torch import nn

from prunus.analysis import costs
from prunus.core.seeds import generator
from prunus.data import DataSet
from prunus.models import build
from prunus.studies.cells import Cell
from prunus.studies.config import BaseSetting
from prunus.studies.kinds.initialization.masks import example_of
from prunus.studies.kinds.supermask.shapes import weights_of
from prunus.studies.work import new_model

#: Widths are so many parts of the network's own.
_PARTS = 4096


def width_for(setting: BaseSetting, density: float, data: DataSet) -> float:
    """The largest width, as a factor on the setting's own, with at most `density` of the prunable weights.

    Where even one unit a layer has more weights, that width.
    """
    budget = density * _weights(setting, 1.0, data)
    least, most = 1, _PARTS  # at `most`, or the part behind it, there are too many
    if _weights(setting, 1.0, data) <= budget:
        return 1.0
    while most - least > 1:
        middle = (least + most) // 2
        fits = _weights(setting, middle / _PARTS, data) <= budget
        least, most = (middle, most) if fits else (least, middle)
    return least / _PARTS


def narrow_model(cell: Cell, data: DataSet) -> nn.Module:
    """The network of a cell with a width of its own, freshly initialised."""
    model, draw = cell.setting.model, generator(cell.seed, "initialisation")
    width = model.width * cell.identity["width"]
    return build(model.name, data.input_shape, len(data.classes), width=width, generator=draw)


def measured(cell: Cell, model: nn.Module, data: DataSet) -> dict[str, float]:
    """Density and FLOPs beside those of the network at its full width, at as many steps."""
    small = costs(model, inputs=example_of(data)).total
    full = costs(new_model(cell, data).to(data.train.images.device), inputs=example_of(data)).total
    share = small.macs / full.macs
    return {"density": small.parameters / full.parameters, "inference": share, "training": share}


def _weights(setting: BaseSetting, width: float, data: DataSet) -> int:
    return sum(weight.numel() for weight in weights_of(setting, width, data).values())
