"""Networks that are sparse from the first step to the last: accuracy against density, and against FLOPs of training.

Evci, Gale, Menick, Castro and Elsen, "Rigging the lottery: making all tickets winners", 2020, ICML, with all methods of
`prunus.sparse_training`.
"""

from typing import TYPE_CHECKING

from prunus.studies.kinds.kind import Kind
from prunus.studies.kinds.sparse_training.study import SparseTrainingStudy, expand
from prunus.studies.kinds.sparse_training.work import begin, stand_in

if TYPE_CHECKING:
    from prunus.studies.report.view import View

__all__ = ["SPARSE_TRAINING", "SparseTrainingStudy"]


def _view() -> "View":
    from prunus.studies.kinds.sparse_training.view import VIEW

    return VIEW


SPARSE_TRAINING = Kind(
    name="sparse-training",
    config=SparseTrainingStudy,
    presets={
        "quick": "LeNet-300-100 on digits, in seconds",
        "mnist": "LeNet-300-100 on MNIST at 8 to 1 %, all methods; hours",
        "cifar": "a narrow VGG-11 on 20,000 images of CIFAR-10 at 10 and 5 %; an hour",
        "paper": "WRN-22-2 and ResNet-18 on CIFAR-10; for a GPU",
    },
    expand=expand,
    begin=begin,
    view=_view,
    stand_in=stand_in,
)
