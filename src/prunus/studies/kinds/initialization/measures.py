"""What is measured of masks before anything is trained."""

from typing import Any

from torch import Tensor, nn

from prunus.analysis.collapse import collapse
from prunus.analysis.costs import costs
from prunus.core.masks import Masks


def measured(model: nn.Module, masks: Masks, example: Tensor) -> dict[str, Any]:
    """Numbers of a mask: what is on a path, what is empty, what work is left.

    Returns:
        `effective`: weights on a path; `emptiest`: the least number of weights of a layer; `empty`: layers without a
        weight; `cut`: those of them that all paths went through; `connected`: whether a path is left; `work`: the
        fraction of multiply-accumulates left.
    """
    state = collapse(model, masks, example)
    work = costs(model, masks, example).total
    return {
        "effective": work.effective,
        "emptiest": min(layer.kept for layer in masks.layers),
        "empty": list(state.empty),
        "cut": list(state.cut),
        "connected": state.connected,
        "work": work.kept_macs / work.macs,
    }
