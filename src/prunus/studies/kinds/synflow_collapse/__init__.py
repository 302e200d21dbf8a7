"""The collapse study: accuracy and collapse against the compression ratio, for all criteria.

Tanaka, Kunin, Yamins and Ganguli, "Pruning neural networks without any data by iteratively conserving synaptic flow",
2020, NeurIPS.
"""

from typing import TYPE_CHECKING

from prunus.studies.kinds.initialization.check import check
from prunus.studies.kinds.kind import Kind
from prunus.studies.kinds.synflow_collapse.work import SynFlowCollapse, begin, expand

if TYPE_CHECKING:
    from prunus.studies.report.view import View

__all__ = ["SYNFLOW_COLLAPSE", "SynFlowCollapse"]


def _view() -> "View":
    from prunus.studies.kinds.synflow_collapse.view import VIEW

    return VIEW


SYNFLOW_COLLAPSE = Kind(
    name="synflow-collapse",
    config=SynFlowCollapse,
    presets={
        "quick": "Conv-4 on digits, in a minute",
        "cifar": "a narrow VGG-11 on 5,000 images of CIFAR-10, in minutes",
        "untrained": "VGG-16, VGG-11 and ResNet-18 for CIFAR-10, masks only: critical compressions",
        "paper": "VGG-16 and ResNet-18 on CIFAR-10, as published; for a GPU",
    },
    expand=expand,
    check=check,
    begin=begin,
    view=_view,
)
