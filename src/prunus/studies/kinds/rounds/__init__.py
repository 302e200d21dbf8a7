"""The rounds study: how many rounds of SynFlow are enough.

Tanaka, Kunin, Yamins and Ganguli, "Pruning neural networks without any data by iteratively conserving synaptic flow",
2020, NeurIPS: layers keep their weights if what a round takes away is less than what flows through a layer.
"""

from typing import TYPE_CHECKING

from prunus.studies.kinds.initialization.check import check
from prunus.studies.kinds.kind import Kind
from prunus.studies.kinds.rounds.work import RoundsStudy, begin, expand

if TYPE_CHECKING:
    from prunus.studies.report.view import View

__all__ = ["ROUNDS", "RoundsStudy"]


def _view() -> "View":
    from prunus.studies.kinds.rounds.view import VIEW

    return VIEW


ROUNDS = Kind(
    name="rounds",
    config=RoundsStudy,
    presets={
        "quick": "Conv-4 on digits, in seconds",
        "cifar": "VGG-11 for CIFAR-10, in some minutes",
    },
    expand=expand,
    check=check,
    begin=begin,
    view=_view,
)
