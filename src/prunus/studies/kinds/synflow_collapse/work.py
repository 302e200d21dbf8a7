"""The cells of the collapse study: each criterion at each compression ratio, and where it first empties a layer."""

from collections.abc import Iterator, Mapping

from torch import nn

from prunus.analysis.critical import Critical, critical_compression, critical_compression_of
from prunus.core.masks import Masks
from prunus.data import DataSet
from prunus.studies.cells import Cell
from prunus.studies.config import AtLeastOne, BaseSetting, Study, TrainConfig
from prunus.studies.kinds.initialization.config import Exponent, InitialPruning
from prunus.studies.kinds.initialization.grid import Make, cells_of
from prunus.studies.kinds.initialization.masks import criterion_of, example_of, found, scores_of
from prunus.studies.kinds.initialization.measures import measured
from prunus.studies.kinds.initialization.work import work_on
from prunus.studies.store import Store
from prunus.studies.work import Work, new_model
from prunus.training.lane import Watch


class CollapsePruning(InitialPruning):
    """How masks are found, and what is done with them.

    Attributes:
        trained: the exponents at which networks are trained too; the dense one then is as well.
        critical: whether each criterion's critical compression is searched for.
        rounds: how often SynFlow prunes.
    """

    trained: tuple[Exponent, ...] = ()
    critical: bool = True
    rounds: AtLeastOne = 100


class Setting(BaseSetting):
    """One network on one data set: a row of the figure."""

    train: TrainConfig = TrainConfig()  # type: ignore[valid-type]
    prune: CollapsePruning = CollapsePruning()


class SynFlowCollapse(Study[Setting]):
    """The collapse study, resolved."""


def expand(study: SynFlowCollapse, data: Mapping[str, DataSet]) -> list[Cell]:
    """All cells: dense, each criterion at each ratio, each criterion's critical compression."""
    return cells_of(study, data, _cells)


def _cells(make: Make, setting: BaseSetting) -> Iterator[Cell]:
    assert isinstance(setting, Setting)
    prune = setting.prune
    exponents = sorted({*prune.exponents, *prune.trained} - {0.0})
    if prune.trained:
        yield make("dense", 0, "dense", trains=True)
    for criterion in prune.criteria:
        own = {"rounds": prune.rounds} if criterion == "synflow" else {}
        for i, exponent in enumerate(exponents, 1):
            yield make(criterion, i, f"at 10^{exponent:g}", exponent in prune.trained, exponent, **own)
        if prune.critical:
            yield make(criterion, len(exponents) + 1, "critical compression", trains=False, critical=True, **own)


def begin(cell: Cell, data: DataSet, store: Store, watch: Watch | None = None) -> Work:
    """Find the masks of a cell, measure them, and hand over what is to be trained."""
    model = new_model(cell, data).to(data.train.images.device)
    if cell.arm == "dense":
        return work_on(cell, model, Masks.full(model), {}, data, store, watch)
    if cell.identity.get("critical"):
        masks, critical = search(cell, model, data)
        own = {"critical": critical.compression, "first_empty": critical.first, "evaluations": critical.evaluations}
        return work_on(cell, model, masks, {**measured(model, masks, example_of(data)), **own}, data, store, watch)
    masks = masks_of(cell, model, data, exponent=cell.identity["exponent"])
    return work_on(cell, model, masks, measured(model, masks, example_of(data)), data, store, watch)


def masks_of(
    cell: Cell, model: nn.Module, data: DataSet, exponent: float | None = None, keep: int | None = None
) -> Masks:
    """The cell's masks at a compression ratio, or with so many weights."""
    prune = cell.setting.prune
    more = {"rounds": cell.identity["rounds"]} if "rounds" in cell.identity else {}
    if prune.protect is not None:
        more["protect"] = prune.protect
    criterion = criterion_of(cell.arm, prune, data)
    return found(model, criterion, cell, data, exponent=exponent, keep=keep, **more)


def search(cell: Cell, model: nn.Module, data: DataSet) -> tuple[Masks, Critical]:
    """The largest compression at which no layer is empty, and the masks there."""
    prune = cell.setting.prune
    criterion = criterion_of(cell.arm, prune, data)
    if getattr(criterion, "rounds", 1) == 1 and prune.protect is None:
        critical = critical_compression_of(scores_of(model, criterion, cell, data))
    else:
        critical = critical_compression(lambda keep: masks_of(cell, model, data, keep=keep), model)
    return masks_of(cell, model, data, keep=critical.kept), critical
