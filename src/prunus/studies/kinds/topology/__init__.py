"""How the topology moves while a sparse network trains: how far masks come, what they try, which units die.

Liu, Yin, Mocanu and Pechenizkiy, "Do we actually need dense over-parameterization? In-time over-parameterization in
sparse training", 2021, ICML: what counts is the share of weights that were ever active.
"""

from typing import TYPE_CHECKING

from prunus.studies.kinds.kind import Kind
from prunus.studies.kinds.sparse_training.work import stand_in
from prunus.studies.kinds.topology.study import TopologyStudy, expand
from prunus.studies.kinds.topology.work import begin

if TYPE_CHECKING:
    from prunus.studies.report.view import View

__all__ = ["TOPOLOGY", "TopologyStudy"]


def _view() -> "View":
    from prunus.studies.kinds.topology.view import VIEW

    return VIEW


TOPOLOGY = Kind(
    name="topology",
    config=TopologyStudy,
    presets={
        "quick": "LeNet-300-100 on digits, in seconds",
        "mnist": "LeNet-300-100 on MNIST at 5 and 1 %, eight methods; an hour",
        "cifar": "a narrow VGG-11 on 20,000 images of CIFAR-10; an hour",
    },
    expand=expand,
    begin=begin,
    view=_view,
    stand_in=stand_in,
)
