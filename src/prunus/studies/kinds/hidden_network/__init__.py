"""What is hidden in a randomly weighted network: masks over weights that nobody trains, at many densities.

Ramanujan, Wortsman, Kembhavi, Farhadi and Rastegari, "What's hidden in a randomly weighted neural network?", 2020,
CVPR, with the masks of Zhou et al., 2019, NeurIPS, and Sreenivasan et al., 2022, NeurIPS, beside them.
"""

from typing import TYPE_CHECKING

from prunus.studies.kinds.hidden_network.grid import HiddenNetwork, expand
from prunus.studies.kinds.kind import Kind
from prunus.studies.kinds.supermask.work import begin, check, stand_in

if TYPE_CHECKING:
    from prunus.studies.report.view import View

__all__ = ["HIDDEN_NETWORK", "HiddenNetwork"]


def _view() -> "View":
    from prunus.studies.kinds.hidden_network.view import VIEW

    return VIEW


HIDDEN_NETWORK = Kind(
    name="hidden-network",
    config=HiddenNetwork,
    presets={
        "quick": "LeNet-300-100 on digits, in seconds",
        "mnist": "LeNet-300-100 on MNIST, five methods; half an hour",
        "cifar": "narrow Conv-2 and Conv-4 on 5,000 images of CIFAR-10; half an hour",
        "paper": "Conv-2 to Conv-8 on CIFAR-10 for 100 epochs; for a GPU",
        "rare-gems": "ResNet-20 on CIFAR-10 at 3.7 % and less; for a GPU",
    },
    expand=expand,
    check=check,
    begin=begin,
    view=_view,
    stand_in=stand_in,
)
