"""Cells of the studies of pruning at initialization."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prunus.data import DataSet
from prunus.studies.cells import Cell, shared_identity, trained_on
from prunus.studies.config import BaseSetting, Study
from prunus.training import Recipe

#: Of one variant and trial, all cells; it is given what makes one (see `cells_of`).
MakeCells = Callable[["Make", BaseSetting], Iterable[Cell]]


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
        self._setting = study.variants[name]
        self._shared = shared_identity(study, self._setting, trial, data)
        self._recipe = Recipe(**self._setting.train.__dict__).resolved(len(data.train))

    def __call__(self, arm: str, place: int, said: str, trains: bool, exponent: float = 0.0, **own: Any) -> Cell:
        """A cell.

        Args:
            arm: what is compared.
            place: its number along the axis.
            said: its place in words.
            trains: whether it is trained, or only looked at.
            exponent: of the compression ratio; 0 keeps all weights.
            own: all else that determines it.
        """
        prune = self._setting.prune
        options = {"per_class": prune.per_class, "mode": prune.mode, "protect": getattr(prune, "protect", None)}
        identity = {
            **self._shared,
            "study": self._study.study,
            "arm": arm,
            "exponent": exponent,
            "prune": options,
            **own,
            **(trained_on(self._recipe) if trains else {}),
        }
        return Cell(
            self._name,
            self._trial,
            place,
            arm,
            self._setting,
            identity,
            kind=self._study.study,
            place=said,
            density=10**-exponent,
        )


def cells_of(study: Study[Any], data: Mapping[str, DataSet], make_cells: MakeCells) -> list[Cell]:
    """All cells of a study; the first trial of every variant comes first."""

    def each() -> Iterator[Cell]:
        for trial in range(study.trials):
            for name, setting in study.variants.items():
                yield from make_cells(Make(study, name, trial, data[name]), setting)

    return list(each())
