"""The cells of the conservation study: the scores of one criterion, layer by layer; nothing is pruned or trained."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from prunus.analysis.conservation import conservation
from prunus.core.masks import Masks
from prunus.data import DataSet
from prunus.studies.cells import Cell
from prunus.studies.config import BaseSetting, Study, TrainConfig
from prunus.studies.kinds.initialization.config import InitialScoring
from prunus.studies.kinds.initialization.grid import Make, cells_of
from prunus.studies.kinds.initialization.masks import criterion_of, example_of, scores_of
from prunus.studies.store import Store
from prunus.studies.work import Work, check_model, new_model
from prunus.training.lane import Watch


class Setting(BaseSetting):
    """One network on one data set: a row of the figure."""

    train: TrainConfig = TrainConfig()  # type: ignore[valid-type]
    prune: InitialScoring = InitialScoring()


class ConservationStudy(Study[Setting]):
    """The conservation study, resolved."""


def expand(study: ConservationStudy, data: Mapping[str, DataSet]) -> list[Cell]:
    """A cell for each criterion."""
    return cells_of(study, data, _cells)


def _cells(make: Make, setting: BaseSetting) -> Iterator[Cell]:
    assert isinstance(setting, Setting)
    for criterion in setting.prune.criteria:
        yield make(criterion, 0, "scores", trains=False)


def check(cell: Cell, data: DataSet) -> None:
    """Refuse a network that cannot be made."""
    check_model(cell, data)


def begin(cell: Cell, data: DataSet, _store: Store, _watch: Watch | None = None) -> Work:
    """Score the network, and add up."""
    model = new_model(cell, data).to(data.train.images.device)
    scores = scores_of(model, criterion_of(cell.arm, cell.setting.prune, data), cell, data)
    layers = [_layer(name, tensor) for name, tensor in scores.items()]
    laws = _laws(model, data) if cell.arm == "synflow" else {}
    return Work(cell, layers=Masks.full(model).layers, measures={"layers": layers, **laws})


def _layer(name: str, scores: Tensor) -> dict[str, Any]:
    return {"name": name, "size": scores.numel(), "sum": float(scores.double().sum())}


def _laws(model: nn.Module, data: DataSet) -> dict[str, Any]:
    """How exactly synaptic flow is conserved, in 64 bits."""
    found = conservation(model, inputs=example_of(data))
    return {
        "layer_error": found.layer_error,
        "neuron_error": found.unit_error,
        "cuts": [layer.name for layer in found.layers if layer.kind == "cut"],
    }
