"""Wider random networks hide better subnetworks: accuracy against width, at a fixed density.

Ramanujan, Wortsman, Kembhavi, Farhadi and Rastegari, "What's hidden in a randomly weighted neural network?", 2020,
CVPR.
"""

from typing import TYPE_CHECKING

from prunus.studies.kinds.kind import Kind
from prunus.studies.kinds.supermask.work import begin, check, stand_in
from prunus.studies.kinds.width.grid import Width, expand

if TYPE_CHECKING:
    from prunus.studies.report.view import View

__all__ = ["WIDTH", "Width"]


def _view() -> "View":
    from prunus.studies.kinds.width.view import VIEW

    return VIEW


WIDTH = Kind(
    name="width",
    config=Width,
    presets={
        "quick": "LeNet-300-100 on digits at six widths, in seconds",
        "mnist": "LeNet-300-100 on MNIST at seven widths; half an hour",
        "cifar": "Conv-4 on 5,000 images of CIFAR-10 at four small widths; an hour",
        "paper": "Conv-4 and Conv-6 on CIFAR-10 for 100 epochs; for a GPU",
    },
    expand=expand,
    check=check,
    begin=begin,
    view=_view,
    stand_in=stand_in,
)
