"""Wider and sparser: accuracy against width, with as many weights kept at each.

Ramanujan, Wortsman, Kembhavi, Farhadi and Rastegari, "What's hidden in a randomly weighted neural network?", 2020,
CVPR.
"""

from typing import TYPE_CHECKING

from prunus.studies.kinds.fixed_budget.grid import FixedBudget, expand
from prunus.studies.kinds.kind import Kind
from prunus.studies.kinds.supermask.work import begin, check, stand_in

if TYPE_CHECKING:
    from prunus.studies.report.view import View

__all__ = ["FIXED_BUDGET", "FixedBudget"]


def _view() -> "View":
    from prunus.studies.kinds.fixed_budget.view import VIEW

    return VIEW


FIXED_BUDGET = Kind(
    name="fixed-budget",
    config=FixedBudget,
    presets={
        "quick": "LeNet-300-100 on digits at five widths, in seconds",
        "mnist": "LeNet-300-100 on MNIST at six widths; half an hour",
        "cifar": "Conv-4 on 5,000 images of CIFAR-10 at five small widths; an hour",
        "paper": "Conv-4 and Conv-6 on CIFAR-10 for 100 epochs; for a GPU",
    },
    expand=expand,
    check=check,
    begin=begin,
    view=_view,
    stand_in=stand_in,
)
