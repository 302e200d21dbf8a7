"""What the recipe study refuses before anything is done."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from prunus.core.errors import Invalid
from prunus.data import DataSet
from prunus.sparse_training.tost import ToST, rescale_init
from prunus.sparse_training.tost.phase import check_count
from prunus.studies.cells import Cell
from prunus.studies.kinds.initialization.masks import example_of
from prunus.studies.kinds.recipe.arms import PARTS_OF
from prunus.studies.kinds.recipe.config import TICKET, Setting, Switches
from prunus.studies.kinds.recipe.masks import kept, mask_of
from prunus.studies.kinds.recipe.work import rescaling
from prunus.studies.work import check_model
from prunus.training import Recipe
from prunus.training.recipe import make_optimizer


def check(cell: Cell, data: DataSet) -> None:
    """Refuse a network that cannot be made, have its masks, or be trained with a part of the recipe.

    Args:
        cell: the first of a variant: its dense network.
        data: of the variant.

    Raises:
        Invalid: naming what is not allowed.
    """
    model, setting = check_model(cell, data), cell.setting
    assert isinstance(setting, Setting)
    for density in setting.densities:
        _check_mask(model, setting, density, cell, data)
    for arm, switches in setting.recipes.items():
        try:
            _check_switches(model, switches, arm, cell.recipe, data)
        except Invalid as error:
            raise Invalid(f"{cell.network}: recipes.{error}") from error


def _check_mask(model: nn.Module, setting: Setting, density: float, cell: Cell, data: DataSet) -> None:
    if kept(model, density) < 1:
        raise Invalid(f"{cell.network}: densities has {density}, which keeps no weight; allowed: larger ones")
    # magnitude takes no data, and shares a density among the layers as any other
    quick = setting.mask.name if setting.mask.name in ("random", TICKET) else "magnitude"
    config = setting.mask.model_copy(update={"name": quick, "scope": setting.mask.allocation})
    try:
        mask_of(model, config, density, cell, data)
    except Invalid as error:
        raise Invalid(f"{cell.network} at density {density:g}: mask.{error}") from error


def _check_switches(model: nn.Module, switches: Switches, arm: str, recipe: Recipe, data: DataSet) -> None:
    for part in PARTS_OF[arm]:
        options = dict(switches)[part]
        try:
            if part == "rescaled_init":
                _check_rescaling(model, options, recipe, data)
            else:
                _check_phase(model, part, options, recipe, data)
        except Invalid as error:
            raise Invalid(f"{arm}.{part}: {error}") from error


def _check_phase(model: nn.Module, part: str, options: Mapping[str, Any], recipe: Recipe, data: DataSet) -> None:
    off = dict.fromkeys(("soft_neurons", "ghost_skips", "label_smoothing"), False)
    optimizer = make_optimizer(recipe, model.parameters())
    tost = ToST(model, optimizer, int(recipe.iterations), **{**off, part: options})
    try:
        tost.loss(torch.zeros(1, len(data.classes)), torch.zeros(1, dtype=torch.int64))
    finally:
        tost.finish()


def _check_rescaling(model: nn.Module, options: Mapping[str, Any], recipe: Recipe, data: DataSet) -> None:
    """See that one step on a batch of two images works; the model is one that nobody needs."""
    check_count("steps", options["steps"])
    images = example_of(data).to("cpu").expand(2, *data.input_shape)
    rescale_init(
        model, [(images, torch.tensor([0, 1]) % len(data.classes))], **{**rescaling(options, recipe), "steps": 1}
    )
