"""The mask-criteria study: which parts of the lottery tickets' recipe matter.

Zhou, Lan, Liu and Yosinski, "Deconstructing lottery tickets: zeros, signs, and the supermask", 2019, NeurIPS.
"""

from typing import TYPE_CHECKING

from prunus.studies.kinds.kind import Kind
from prunus.studies.kinds.mask_criteria.config import MaskCriteria
from prunus.studies.kinds.mask_criteria.grid import expand
from prunus.studies.kinds.mask_criteria.work import begin, check

if TYPE_CHECKING:
    from prunus.studies.report.view import View

__all__ = ["MASK_CRITERIA_STUDY", "MaskCriteria"]


def _view() -> "View":
    from prunus.studies.kinds.mask_criteria.view import VIEW

    return VIEW


MASK_CRITERIA_STUDY = Kind(
    name="mask-criteria",
    config=MaskCriteria,
    presets={
        "quick": "LeNet-300-100 on digits, in less than a minute",
        "mnist": "LeNet-300-100 on MNIST, shorter and with fewer rounds than published; about an hour",
        "cifar": "a narrow Conv-4 on 5,000 images of CIFAR-10; an hour or two",
        "paper": "LeNet-300-100 on MNIST and Conv-2, Conv-4 and Conv-6 on CIFAR-10, 24 rounds; for a GPU",
    },
    expand=expand,
    check=check,
    begin=begin,
    view=_view,
)
