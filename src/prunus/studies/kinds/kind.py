"""`Kind`: what a kind of study is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any

from torch import nn

from prunus.data import DataSet, load
from prunus.studies.cells import Cell
from prunus.studies.config import BaseSetting, Study
from prunus.studies.store import Store
from prunus.studies.work import Work
from prunus.training.lane import Watch

if TYPE_CHECKING:
    from prunus.studies.report.view import View


def load_data(setting: Any, seed: int) -> DataSet:
    """The data of a setting, as its `data` says."""
    data = load(setting.data.name, validation=setting.data.validation, examples=setting.data.examples, seed=seed)
    return data.in_unit_range() if setting.data.scale == "unit" else data


def check_nothing(cell: Cell, data: DataSet) -> None:
    """Nothing is checked."""


@dataclass(frozen=True)
class Kind:
    """A kind of study: its configuration, its cells, the work on a cell, and how the results are reported.

    Attributes:
        name: what its YAML file calls it under `study`, and its row in `KINDS`.
        config: the model of its YAML file.
        presets: what there is to say about each preset, in one line; the first is the default.
        expand: from a resolved study and the data set of each variant to all cells, those that a cell needs before it.
            Identities are made with `shared_identity` and `trained_on` of `prunus.studies.cells` and the kind's name.
        begin: from a cell, its data on the device, the store and what is to be called with each evaluation to the work
            on it. What needs no training is computed here, at once. It raises `GivenUp` where this cell cannot be done
            and others can.
        view: from nothing to how its results are reported. It imports what it needs itself, so that matplotlib is only
            there once something is drawn.
        check: refuses the first cell of each variant, with the variant's data, before anything is trained, if it
            cannot be done.
        load: from a setting and the study's seed to its data; settings whose `data` are equal share what was loaded
            for the first of them.
        stand_in: from a cell that trains and its data to a network that trains as long as its own; cells of one arm and
            width are taken to be alike. Estimates of time are made with it. Default: the setting's dense network, with
            less time for sparser cells.
        folder: where the presets lie, `<preset>.yaml` each; default `presets/<name>/` of Prunus.
    """

    name: str
    config: type[Study[Any]]
    presets: Mapping[str, str]
    expand: Callable[[Any, Mapping[str, DataSet]], Sequence[Cell]]
    begin: Callable[[Cell, DataSet, Store, Watch | None], Work]
    view: Callable[[], "View"]
    check: Callable[[Cell, DataSet], None] = check_nothing
    load: Callable[[Any, int], DataSet] = load_data
    stand_in: Callable[[Cell, DataSet], nn.Module] | None = None
    folder: Traversable | None = None

    def preset(self, name: str) -> str:
        """The YAML of a preset."""
        folder = self.folder or files("prunus.studies") / "presets" / self.name
        return (folder / f"{name}.yaml").read_text(encoding="utf-8")

    @property
    def setting(self) -> type[BaseSetting]:
        """The model of one variant of its studies."""
        return self.config.setting()
