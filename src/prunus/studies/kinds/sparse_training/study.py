"""The cells of the sparse-training study."""

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import BaseModel, Field, field_validator

from prunus.core.errors import Invalid
from prunus.data import DataSet
from prunus.sparse_training import METHODS
from prunus.studies.cells import Cell, trained_on
from prunus.studies.config import STRICT, Study
from prunus.studies.kinds.sparse_training.arms import PRUNED
from prunus.studies.kinds.sparse_training.config import Density, Length, SparseSetting
from prunus.studies.kinds.sparse_training.grid import Make, cells_of
from prunus.studies.kinds.sparse_training.options import has_target


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
    """

    densities: tuple[Density, ...] = (0.2, 0.1, 0.05)
    lengths: tuple[Length, ...] = (1,)
    pruned: PrunedConfig | None = PrunedConfig()

    @field_validator("densities")
    @classmethod
    def _distinct(cls, densities: tuple[float, ...]) -> tuple[float, ...]:
        if not densities or len(set(densities)) < len(densities):
            raise Invalid(f"densities is {list(densities)}; allowed: at least one, and each once")
        return tuple(sorted(densities, reverse=True))

    @field_validator("lengths")
    @classmethod
    def _each_once(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if not lengths or len(set(lengths)) < len(lengths):
            raise Invalid(f"lengths is {list(lengths)}; allowed: at least one, and each once")
        return tuple(sorted(lengths))


class SparseTrainingStudy(Study[Setting]):
    """The sparse-training study, resolved."""


def expand(study: SparseTrainingStudy, data: Mapping[str, DataSet]) -> list[Cell]:
    """The dense network, the same pruned, and each method at each length and density; without a target once."""
    return cells_of(study, data, _cells)


def _cells(make: Make, setting: Setting) -> Iterator[Cell]:
    dense = make.dense()
    yield dense
    if setting.pruned:
        yield from _pruned(make, setting, setting.pruned, dense)
    places = {density: place for place, density in enumerate(setting.densities, 1)}
    for arm, config in setting.methods.items():
        target = has_target(METHODS[config.method_of(arm)])
        own = [d for d in setting.densities if config.densities is None or d in config.densities]
        for length in setting.lengths if config.lengths is None else config.lengths:
            for density in own if target else [None]:
                yield make.sparse(arm, places.get(density, 0) if density else 0, density, length)


def _pruned(make: Make, setting: Setting, config: PrunedConfig, dense: Cell) -> Iterator[Cell]:
    last = int(dense.recipe.iterations)
    first = min(last - 1, last - round(config.fine_tune * last))
    layers = {name: setting.options[name] for name in ("include", "exclude") if name in setting.options}
    for place, density in enumerate(setting.densities, 1):
        own = {"density": density, "layers": layers, **trained_on(dense.recipe, first, last)}
        yield make.cell(PRUNED, place, f"density {density:g}", own, dense.key)
