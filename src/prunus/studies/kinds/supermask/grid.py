"""Cells of the studies of supermasks."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from prunus.core.errors import Invalid, nearest
from prunus.data import DataSet
from prunus.studies.cells import Cell, shared_identity, trained_on
from prunus.studies.config import Study
from prunus.studies.explain import explain
from prunus.studies.kinds.supermask.arms import METHOD_OF, OPTIONS_OF
from prunus.studies.kinds.supermask.config import MaskConfig, MaskSetting
from prunus.studies.kinds.supermask.shapes import weights_of
from prunus.supermasks import METHODS, Method
from prunus.training import Recipe
from prunus.training.recipe import in_iterations

#: Options of methods that are lengths of training.
_LENGTHS = ("steps", "every", "start")

#: Of one variant and trial, all cells; it is given what makes one.
MakeCells = Callable[["Make", MaskSetting], Iterable[Cell]]


class Make:
    """Makes the cells of one variant and one trial.

    Args:
        study: the study.
        name: of the variant.
        trial: which.
        data: of the variant.
    """

    def __init__(self, study: Study[Any], name: str, trial: int, data: DataSet) -> None:
        self._study, self._name, self._trial = study, name, trial
        self.setting: MaskSetting = study.variants[name]
        self.data, self._examples = data, len(data.train)
        self._shared = shared_identity(study, self.setting, trial, data)

    def dense(self, arm: str, place: int, said: str, width: float = 1.0) -> Cell:
        """The cell of a dense network, all of whose weights are trained."""
        recipe = Recipe(**self.setting.train.__dict__).resolved(self._examples)
        return self._cell(arm, place, said, width, {"density": 1.0, **trained_on(recipe)})

    def masked(self, arm: str, place: int, said: str, density: float | None, width: float = 1.0, **more: Any) -> Cell:
        """The cell of a mask.

        Args:
            arm: of the setting's `masks`.
            place: its number along the axis.
            said: its place in words.
            density: what the method is to keep; None where it has no target.
            width: factor on the setting's own width.
            more: what else determines the cell.
        """
        config = self.setting.masks[arm]
        if density is not None and "density" in config.options:
            raise Invalid(f"masks.{arm}.options has density; allowed: the other options, the study says the density")
        recipe = config.recipe(self.setting.train).resolved(self._examples)
        epoch = self._examples // recipe.batch
        given = {**({} if config.method else OPTIONS_OF.get(arm, {})), **config.options}
        where = f"masks.{arm}.options"
        options = {n: in_iterations(v, epoch, f"{where}.{n}") if n in _LENGTHS else v for n, v in given.items()}
        mask = {
            "method": config.method or METHOD_OF.get(arm, arm),
            "options": {**options, **({} if density is None else {"density": density})},
            "weights": config.weights,
            "scaled": config.scaled,
        }
        if mask["method"] == "gem-miner":
            mask["options"].setdefault("steps", int(recipe.iterations))
        if "steps" in mask["options"]:  # a density is reached, also where a preset's training is cut short
            mask["options"]["steps"] = min(mask["options"]["steps"], int(recipe.iterations))
        try:
            method_of(mask)
        except Invalid as error:
            raise Invalid(f"{where}: {error}") from error
        own = {"density": density or 1.0, "mask": mask, **trained_on(recipe), **more}
        return self._cell(arm, place, said, width, own)

    def _cell(self, arm: str, place: int, said: str, width: float, own: Mapping[str, Any]) -> Cell:
        identity = {**self._shared, "study": self._study.study, "arm": arm, "width": width, **own}
        # the products of a masked network are as dense as any: its `density` is 1
        return Cell(self._name, self._trial, place, arm, self.setting, identity, kind=self._study.study, place=said)


def method_of(mask: Mapping[str, Any]) -> Method:
    """The method that an identity says, with its options.

    Raises:
        Invalid: if the method has no such option, or refuses its value.
    """
    kind: Any = METHODS.look_up(mask["method"], "method")
    known = {field.name for field in fields(kind)}
    for option in mask["options"]:
        if option not in known:
            raise Invalid(f"masks: {mask['method']} has no option {option!r}; {nearest(option, known)}")
    try:
        return _checker(kind).validate_json(json.dumps(mask["options"]), strict=True)
    except ValidationError as error:
        raise Invalid(f"masks: {mask['method']}: {explain(error, kind, alone=False)}") from error


@cache
def _checker(kind: type[Method]) -> TypeAdapter[Method]:
    return TypeAdapter(kind)


def has_target(config: MaskConfig, arm: str) -> bool:
    """Whether the arm's method keeps a density that it is told."""
    kind: Any = METHODS.look_up(config.method or METHOD_OF.get(arm, arm), "method")
    return any(field.name == "density" for field in fields(kind))


def cells_of(study: Study[Any], data: Mapping[str, DataSet], make_cells: MakeCells) -> list[Cell]:
    """All cells of a study; the first trial of every variant comes first."""

    def each() -> Iterator[Cell]:
        for trial in range(study.trials):
            for name, setting in study.variants.items():
                assert isinstance(setting, MaskSetting)
                yield from make_cells(Make(study, name, trial, data[name]), setting)

    return list(each())


def checked(cells: list[Cell], data: Mapping[str, DataSet]) -> list[Cell]:
    """The same cells; a mask that its network cannot have is refused before anything is trained.

    Raises:
        Invalid: if one would keep no weight of a layer, or is scaled by a density that there is none of.
    """
    for cell in cells:
        if cell.trial == 0 and "mask" in cell.identity:
            try:
                _check_mask(cell, data[cell.network])
            except Invalid as error:
                raise Invalid(f"{cell.label}: {error}") from error
    return cells


def _check_mask(cell: Cell, data: DataSet) -> None:
    mask = cell.identity["mask"]
    method = method_of(mask)
    if mask["scaled"] and method.target is None:
        raise Invalid(f"scaled is true, and {mask['method']} has no density to scale by; allowed: false")
    method.check(weights_of(cell.setting, cell.identity["width"], data))
