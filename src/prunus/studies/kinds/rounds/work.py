"""The cells of the rounds study: masks at one ratio, found in so many rounds; nothing is trained."""

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import model_validator
from torch import Tensor

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.data import DataSet
from prunus.pruning import Scoring, SynFlow
from prunus.studies.cells import Cell
from prunus.studies.config import AtLeastOne, BaseSetting, Study, TrainConfig
from prunus.studies.kinds.initialization.config import InitialPruning
from prunus.studies.kinds.initialization.grid import Make, cells_of
from prunus.studies.kinds.initialization.masks import example_of, found
from prunus.studies.kinds.initialization.measures import measured
from prunus.studies.kinds.initialization.work import work_on
from prunus.studies.store import Store
from prunus.studies.work import Work, new_model
from prunus.training.lane import Watch


class RoundsPruning(InitialPruning):
    """How masks are found. The criterion is SynFlow, at the one ratio of `exponents`.

    Attributes:
        rounds: how many rounds are compared.
        schedules: how the density goes down over the rounds.
    """

    criteria: tuple[str, ...] = ("synflow",)
    exponents: tuple[float, ...] = (3.0,)
    rounds: tuple[AtLeastOne, ...] = (1, 2, 5, 10, 20, 50, 100)
    schedules: tuple[Literal["exponential", "linear"], ...] = ("exponential", "linear")

    @model_validator(mode="after")
    def _one_ratio(self) -> "RoundsPruning":
        if self.criteria != ("synflow",) or len(self.exponents) != 1:
            raise Invalid(
                f"criteria is {list(self.criteria)} and exponents {list(self.exponents)}; "
                "allowed: synflow, and one exponent a variant"
            )
        return self


class Setting(BaseSetting):
    """One network at one ratio: a row of the figure."""

    train: TrainConfig = TrainConfig()  # type: ignore[valid-type]
    prune: RoundsPruning = RoundsPruning()


class RoundsStudy(Study[Setting]):
    """The rounds study, resolved."""


class Watched:
    """SynFlow, and a note of how much of the flow each round takes away.

    Args:
        criterion: SynFlow.
    """

    def __init__(self, criterion: SynFlow) -> None:
        self.uses, self._criterion = criterion.uses, criterion
        self._before: tuple[Mapping[str, Tensor], Masks] | None = None
        #: Of each round, the scores that it took away over the flow through a layer that all paths go through.
        self.ratios: list[float] = []

    def __call__(self, scoring: Scoring) -> Mapping[str, Tensor]:
        """SynFlow's scores."""
        self.note(scoring.masks)
        scores = self._criterion(scoring)
        self._before = scores, scoring.masks
        return scores

    def note(self, masks: Masks) -> None:
        """What the round before has taken away."""
        if self._before is None:
            return
        scores, old = self._before
        taken = sum(float(scores[n][old[n] & ~masks[n]].double().sum()) for n in masks)
        through = max(float(tensor.double().sum()) for tensor in scores.values())  # a layer that is a cut has it all
        self.ratios.append(taken / through if through else float("inf"))


def expand(study: RoundsStudy, data: Mapping[str, DataSet]) -> list[Cell]:
    """A cell for each schedule, ratio and number of rounds."""
    return cells_of(study, data, _cells)


def _cells(make: Make, setting: BaseSetting) -> Iterator[Cell]:
    assert isinstance(setting, Setting)
    for schedule in setting.prune.schedules:
        for exponent in setting.prune.exponents:
            for number in sorted(set(setting.prune.rounds)):
                place = round(1000 * exponent) * 10_000 + number
                said = f"10^{exponent:g} in {number} rounds"
                yield make(schedule, place, said, False, exponent, rounds=number)


def begin(cell: Cell, data: DataSet, store: Store, watch: Watch | None = None) -> Work:
    """Prune in so many rounds, and measure."""
    model = new_model(cell, data).to(data.train.images.device)
    number, exponent = cell.identity["rounds"], cell.identity["exponent"]
    watched = Watched(SynFlow(inputs=example_of(data)))
    masks = found(model, watched, cell, data, exponent=exponent, rounds=number, schedule=cell.arm)
    watched.note(masks)
    own = {"rounds": number, "exponent": exponent, "taken": max(watched.ratios)}
    return work_on(cell, model, masks, {**own, **measured(model, masks, example_of(data))}, data, store, watch)
