"""What each part of a recipe adds to the training of a network with a fixed mask, whatever the mask.

Jaiswal, Ma, Chen, Ding and Wang, "Training your sparse neural network better with any mask", 2022, ICML: soft neurons,
ghost skip connections, label smoothing and rescaled initialisation (`prunus.sparse_training.tost`), alone and together,
on the same mask, initial weights and data order.
"""

from typing import TYPE_CHECKING

from prunus.studies.kinds.kind import Kind
from prunus.studies.kinds.recipe.check import check
from prunus.studies.kinds.recipe.config import RecipeStudy
from prunus.studies.kinds.recipe.grid import expand
from prunus.studies.kinds.recipe.work import begin, stand_in

if TYPE_CHECKING:
    from prunus.studies.report.view import View

__all__ = ["RECIPE", "RecipeStudy"]


def _view() -> "View":
    from prunus.studies.kinds.recipe.view import VIEW

    return VIEW


RECIPE = Kind(
    name="recipe",
    config=RecipeStudy,
    presets={
        "quick": "LeNet-300-100 on digits, in seconds",
        "mnist": "LeNet-300-100 on MNIST at 95 to 99 % sparsity, five masks; a quarter of an hour",
        "cifar": "a narrow VGG-11 with BatchNorm on 5,000 images of CIFAR-10; half an hour",
        "paper": "ResNet-18 and ResNet-32 on CIFAR-10 for 182 epochs; for a GPU",
    },
    expand=expand,
    check=check,
    begin=begin,
    view=_view,
    stand_in=stand_in,
)
