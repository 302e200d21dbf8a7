"""The sanity study: each criterion against its shuffled, re-initialised and inverted self.

Frankle, Dziugaite, Roy and Carbin, "Pruning neural networks at initialization: why are we missing the mark?", 2021,
ICLR.
"""

from typing import TYPE_CHECKING

from prunus.studies.kinds.initialization.check import check
from prunus.studies.kinds.kind import Kind
from prunus.studies.kinds.pai_sanity.work import PaiSanity, begin, expand

if TYPE_CHECKING:
    from prunus.studies.report.view import View

__all__ = ["PAI_SANITY", "PaiSanity"]


def _view() -> "View":
    from prunus.studies.kinds.pai_sanity.view import VIEW

    return VIEW


PAI_SANITY = Kind(
    name="pai-sanity",
    config=PaiSanity,
    presets={
        "quick": "Conv-4 on digits, in a minute or two",
        "cifar": "a narrow VGG-11 on 5,000 images of CIFAR-10; most of an hour",
        "paper": "ResNet-20 and VGG-16 on CIFAR-10; for a GPU",
    },
    expand=expand,
    check=check,
    begin=begin,
    view=_view,
)
