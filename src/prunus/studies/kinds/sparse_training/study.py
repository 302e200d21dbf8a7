"""The cells of the sparse-training study."""

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from prunus.data import DataSet
from prunus.studies.cells import Cell, trained_on
from prunus.studies.config import STRICT, Study
from prunus.studies.kinds.sparse_training.arms import NARROW, PRUNED, WITHOUT_TARGET
from prunus.studies.kinds.sparse_training.config import Density, Length, SparseSetting, each_once
from prunus.studies.kinds.sparse_training.grid import Make, cells_of
from prunus.studies.kinds.sparse_training.narrow import width_for


class PrunedConfig(BaseModel):
    """How the trained dense network is pruned, and trained on.

    Attributes:
        fine_tune: which part of the dense training is done again, its last, with its learning rates.
    """

    model_config = STRICT
    fine_tune: Annotated[float, Field(gt=0, le=1)] = 0.25


class Setting(SparseSetting):
    """One network on one data set: a row of the figure.

    Attributes:
        densities: what methods with a target are trained at.
        lengths: of training, as multiples of the dense network's.
        pruned: the dense network pruned after training; null leaves it out.
        narrow: whether there is a dense network with as few weights at each density.
    """

    densities: tuple[Density, ...] = (0.2, 0.1, 0.05)
    lengths: tuple[Length, ...] = (1,)
    pruned: PrunedConfig | None = PrunedConfig()
    narrow: bool = True

    @field_validator("densities", "lengths")
    @classmethod
    def _distinct(cls, values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        return each_once(values, info)


class SparseTrainingStudy(Study[Setting]):
    """The sparse-training study, resolved."""


def expand(study: SparseTrainingStudy, data: Mapping[str, DataSet]) -> list[Cell]:
    """The dense network, the same pruned and narrow, and each method at each length and density.

    A method that learns its density has one cell for each length.
    """
    return cells_of(study, data, _cells)


def _cells(make: Make, setting: Setting) -> Iterator[Cell]:
    dense = make.dense()
    yield dense
    every = {*setting.densities, *(d for config in setting.methods.values() for d in config.densities or ())}
    places = {density: place for place, density in enumerate(sorted(every, reverse=True), 1)}
    for density in sorted(setting.densities, reverse=True):
        if setting.pruned:
            yield _pruned(make, setting, dense, places[density], density)
        if setting.narrow:
            own = {"density": density, "width": width_for(setting, density, make.data), **trained_on(dense.recipe)}
            yield make.cell(NARROW, places[density], f"density {density:g}", own)
    for arm, config in setting.methods.items():
        densities = sorted(config.densities or setting.densities, reverse=True)
        for length in sorted(config.lengths or setting.lengths):
            if config.method_of(arm) in WITHOUT_TARGET:
                yield make.sparse(arm, 0, None, length)
                continue
            for density in densities:
                yield make.sparse(arm, places[density], density, length)


def _pruned(make: Make, setting: Setting, dense: Cell, place: int, density: float) -> Cell:
    assert setting.pruned
    last = int(dense.recipe.iterations)
    first = min(last - 1, last - round(setting.pruned.fine_tune * last))
    layers = {name: setting.options[name] for name in ("include", "exclude") if name in setting.options}
    own = {"density": density, "layers": layers, **trained_on(dense.recipe, first, last)}
    return make.cell(PRUNED, place, f"density {density:g}", own, dense.key)
