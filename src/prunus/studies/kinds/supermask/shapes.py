"""The weights of a cell's network before there are any: their names and shapes."""

from collections.abc import Mapping
from functools import cache

import torch
from torch import nn

from prunus.core.errors import Invalid
from prunus.core.params import prunable
from prunus.data import DataSet
from prunus.models import build
from prunus.studies.config import BaseSetting


def weights_of(setting: BaseSetting, width: float, data: DataSet) -> Mapping[str, nn.Parameter]:
    """The prunable weights of the setting's network at a factor on its own width, on the meta device.

    Raises:
        Invalid: if there can be no such network for this data.
    """
    return _made(setting.model.name, setting.model.width * width, data.input_shape, len(data.classes))


@cache
def _made(name: str, width: float, shape: tuple[int, int, int], classes: int) -> Mapping[str, nn.Parameter]:
    try:
        with torch.device("meta"):
            model = build(name, shape, classes, width=width, generator=torch.Generator())
    except (RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise Invalid(f"model {name!r} of width {width:g} cannot be made ({reason})") from error
    return prunable(model)
