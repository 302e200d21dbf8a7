"""Cells of the studies of sparse training."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prunus.core.apply import release
from prunus.core.errors import Invalid
from prunus.core.seeds import derive
from prunus.data import DataSet
from prunus.studies.cells import Cell, shared_identity, trained_on
from prunus.studies.config import Study
from prunus.studies.kinds.sparse_training.arms import named
from prunus.studies.kinds.sparse_training.config import SparseSetting
from prunus.studies.kinds.sparse_training.options import make, resolved
from prunus.studies.work import check_model
from prunus.tickets.ticket import snapshot
from prunus.training import Recipe
from prunus.training.recipe import make_optimizer

#: Of one variant and trial, all cells; it is given what makes one.
MakeCells = Callable[["Make", Any], Iterable[Cell]]


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
        self.data, self._examples = data, len(data.train)
        self.setting: SparseSetting = study.variants[name]
        self._shared = {**shared_identity(study, self.setting, trial, data), "study": study.study}

    @property
    def dense_recipe(self) -> Recipe:
        """The training of the dense network, resolved."""
        return Recipe(**self.setting.train.__dict__).resolved(self._examples)

    def dense(self) -> Cell:
        """The cell of the dense network."""
        return self.cell("dense", 0, "density 1", {"density": 1.0, **trained_on(self.dense_recipe)})

    def sparse(self, arm: str, place: int, density: float | None, length: int = 1, **more: Any) -> Cell:
        """The cell of a sparse training.

        Args:
            arm: of the setting's `methods`.
            place: its number along the axis.
            density: what it is to keep; None where the method has no target.
            length: how many times as long it trains as it would.
            more: what else determines the cell.

        Raises:
            Invalid: if an option is not one of the method, or not of its type.
        """
        config, dense = self.setting.methods[arm], self.dense_recipe
        own_recipe = config.recipe(self.setting.train).resolved(self._examples)
        recipe = stretched(own_recipe, length)
        method, given = config.method_of(arm), config.options_of(arm, self.setting.options)
        try:
            options = resolved(method, given, int(recipe.iterations), self._examples // recipe.batch)
        except Invalid as error:
            raise Invalid(f"methods.{arm}.options: {error}") from error
        options |= {} if density is None else {"density": density}
        own = {"method": {"name": method, "options": options}, "density": density, "length": length}
        if (own_recipe.iterations, own_recipe.batch) != (dense.iterations, dense.batch):
            own["beside"] = [dense.iterations, dense.batch]
        said = "at a density of its own" if density is None else f"density {density:g}"
        return self.cell(named(arm, length), place, said, {**own, **trained_on(recipe), **more})

    def cell(self, arm: str, place: int, said: str, own: Mapping[str, Any], start: str | None = None) -> Cell:
        """Any cell."""
        identity = {**self._shared, "arm": arm, **own, **({"start": start} if start else {})}
        kind = self._study.study
        return Cell(self._name, self._trial, place, arm, self.setting, identity, start, kind=kind, place=said)


def stretched(recipe: Recipe, length: int) -> Recipe:
    """A resolved recipe that takes so many times as long: training, milestones and warm-up."""
    longer = {"iterations": length * int(recipe.iterations), "warmup": length * int(recipe.warmup)}
    milestones = tuple(length * int(milestone) for milestone in recipe.milestones)
    return Recipe(**{**recipe.__dict__, **longer, "milestones": milestones})


def cells_of(study: Study[Any], data: Mapping[str, DataSet], make_cells: MakeCells) -> list[Cell]:
    """All cells of a study; the first trial of every variant comes first.

    Raises:
        Invalid: if a network cannot have the masks that it is to begin with.
    """

    def each() -> Iterator[Cell]:
        for trial in range(study.trials):
            for name, setting in study.variants.items():
                made = list(make_cells(Make(study, name, trial, data[name]), setting))
                if trial == 0:
                    _check(made, data[name])
                yield from made

    return list(each())


def _check(cells: list[Cell], data: DataSet) -> None:
    """Refuse what a method refuses of its network, before anything is trained: at its most weights and its fewest."""
    model = check_model(cells[0], data)
    initial = snapshot(model)
    for cell in _ends(cells):
        optimizer = make_optimizer(cell.recipe, model.parameters())
        try:
            make(cell.identity["method"], model, optimizer, derive(cell.seed, "masks")).remove()
        except Invalid as error:
            raise Invalid(f"{cell.label}: {error}") from error
        release(model)
        model.load_state_dict(initial)


def _ends(cells: Iterable[Cell]) -> Iterator[Cell]:
    """Of each method with the same options, the cell of the greatest and that of the least density."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if "method" in cell.identity:
            options = {**cell.identity["method"]["options"], "density": None, "total_steps": None}
            groups.setdefault(json.dumps([cell.identity["method"]["name"], options]), []).append(cell)
    for group in groups.values():
        ordered = sorted(group, key=lambda cell: cell.identity["density"] or 0.0)
        yield ordered[0]
        if ordered[0].identity["density"] != ordered[-1].identity["density"]:
            yield ordered[-1]
