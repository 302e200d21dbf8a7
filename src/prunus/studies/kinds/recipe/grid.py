"""The cells of the recipe study.

In each trial: the dense network; at each density a mask, which is only computed; plain training under it, and each part
of the recipe. `start` of a mask is the dense network if it is made of its weights; that of a training is its mask, and
its `parent` is the plain training that it is compared with.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from prunus.data import DataSet
from prunus.studies.cells import START, Cell, shared_identity, trained_on
from prunus.studies.kinds.recipe.arms import PARTS, PARTS_OF, PLAIN
from prunus.studies.kinds.recipe.config import TICKET, RecipeStudy
from prunus.training import Recipe


def expand(study: RecipeStudy, data: Mapping[str, DataSet]) -> list[Cell]:
    """All cells of `study`, parents before children; the first trial of every variant comes first.

    Variants that differ only in their masks share the dense network.
    """
    return [
        cell
        for trial in range(study.trials)
        for name in study.variants
        for cell in _Trial(study, name, trial, data[name]).cells()
    ]


class _Trial:
    """One variant and one trial.

    Args:
        study: the study.
        name: of the variant.
        number: of the trial.
        data: of the variant.
    """

    def __init__(self, study: RecipeStudy, name: str, number: int, data: DataSet) -> None:
        self._name, self._number = name, number
        self._setting = study.variants[name]
        self._shared = {**shared_identity(study, self._setting, number, data), "study": study.study}
        self._training = trained_on(Recipe(**self._setting.train.__dict__).resolved(len(data.train)))

    def cells(self) -> Iterator[Cell]:
        """All cells."""
        dense = self._cell("dense", 0, 1.0, self._training)
        yield dense
        for place, density in enumerate(self._setting.densities, 1):
            mask = self._mask(place, density, dense)
            yield mask
            plain = self._trained(PLAIN, place, density, mask, None)
            yield plain
            for arm in self._setting.recipes:
                yield self._trained(arm, place, density, mask, plain)

    def _mask(self, place: int, density: float, dense: Cell) -> Cell:
        start = dense.key if self._setting.mask.name == TICKET else None
        own = {"mask": self._setting.mask.model_dump(), "density": density, "start": start}
        return self._cell(START, place, density, own, start)

    def _trained(self, arm: str, place: int, density: float, mask: Cell, plain: Cell | None) -> Cell:
        switches = {} if plain is None else {part: self._said(arm, part) for part in PARTS_OF[arm]}
        parents = {"start": mask.key, **({} if plain is None else {"plain": plain.key})}
        own = {"density": density, "switches": switches, **parents, **self._training}
        return self._cell(arm, place, density, own, mask.key, plain.key if plain else None)

    def _said(self, arm: str, part: str) -> dict[str, Any]:
        """The options that are not the defaults."""
        options = dict(self._setting.recipes[arm])[part]
        return {name: value for name, value in options.items() if value != PARTS[part][name]}

    def _cell(
        self,
        arm: str,
        place: int,
        density: float,
        own: Mapping[str, Any],
        start: str | None = None,
        parent: str | None = None,
    ) -> Cell:
        identity = {**self._shared, "arm": arm, **own}
        said = f"density {density:g}"
        kind = self._shared["study"]
        return Cell(self._name, self._number, place, arm, self._setting, identity, start, parent, kind, said, density)
