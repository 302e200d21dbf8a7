"""The conservation study: the mean score of a layer against its size.

Tanaka, Kunin, Yamins and Ganguli, "Pruning neural networks without any data by iteratively conserving synaptic flow",
2020, NeurIPS: where a score is conserved from layer to layer, its mean goes with the inverse of the layer's size.
"""

from typing import TYPE_CHECKING

from prunus.studies.kinds.conservation.work import ConservationStudy, begin, check, expand
from prunus.studies.kinds.kind import Kind

if TYPE_CHECKING:
    from prunus.studies.report.view import View

__all__ = ["CONSERVATION", "ConservationStudy"]


def _view() -> "View":
    from prunus.studies.kinds.conservation.view import VIEW

    return VIEW


CONSERVATION = Kind(
    name="conservation",
    config=ConservationStudy,
    presets={
        "quick": "Conv-4 and LeNet-300-100 on digits, in seconds",
        "cifar": "VGG-16 and ResNet-18 on CIFAR-10",
    },
    expand=expand,
    check=check,
    begin=begin,
    view=_view,
)
