"""Running a study: the cells that are missing, parents first; what is finished is never computed again."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.data import DataSet, load
from prunus.studies.cells import Cell, expand
from prunus.studies.config import LotteryTicket
from prunus.studies.progress import display
from prunus.studies.resolve import to_yaml
from prunus.studies.store import Store
from prunus.studies.work import new_model, rates_by_kind, work


@dataclass(frozen=True)
class Plan:
    """A study made ready: its cells, the data they need, and where they go."""

    study: LotteryTicket
    cells: tuple[Cell, ...]
    data: Mapping[str, DataSet]
    store: Store

    @property
    def missing(self) -> list[Cell]:
        """The cells that are still to be trained, parents first, each once though variants may share it."""
        return list({cell.key: cell for cell in self.cells if not self.store.has(cell.key)}.values())

    @property
    def finished(self) -> int:
        """How many cells are finished."""
        return sum(self.store.has(cell.key) for cell in self.cells)


def prepare(study: LotteryTicket, out: Path) -> Plan:
    """Load the study's data and lay out its cells; nothing is written.

    Raises:
        Invalid: if the data cannot be had, a setting does not fit it, or `out` is no folder.
    """
    if out.exists() and not out.is_dir():
        raise Invalid(f"--out {str(out)!r} is a file; allowed: a folder, made if it is not there")
    loaded: dict[tuple, DataSet] = {}
    data: dict[str, DataSet] = {}
    for name, setting in study.variants.items():
        wanted = (setting.data.name, setting.data.validation)
        if wanted not in loaded:
            loaded[wanted] = load(setting.data.name, validation=setting.data.validation, seed=study.seed)
        data[name] = loaded[wanted].in_unit_range() if setting.data.scale == "unit" else loaded[wanted]
    cells = expand(study, data)
    for name in study.variants:
        _check(next(cell for cell in cells if cell.network == name), data[name])
    return Plan(study, tuple(cells), data, Store(out))


def _check(cell: Cell, data: DataSet) -> None:
    """Refuse, before anything is trained, a network that cannot be made or pruned as the study says."""
    model, prune = cell.setting.model, cell.setting.prune
    try:
        network = new_model(cell, data)
    except (RuntimeError, MemoryError) as error:
        reason = (str(error).splitlines() or ["out of memory"])[0]
        what = f"model {model.name!r} of width {model.width}"
        raise Invalid(f"{cell.network}: {what} cannot be made ({reason})") from error
    masks = Masks.full(network, exclude=prune.exclude or None)
    if not masks:
        raise Invalid(f"{cell.network}: prune.exclude is {list(prune.exclude)}, which leaves no layer to prune")
    rates_by_kind(network, masks, prune)


def run(plan: Plan, command: str, *, quiet: bool = False, checkpoint_every: float = 60.0) -> None:
    """Train what is missing. Stopped at any point, the same call goes on where it was, to the same records.

    Args:
        plan: from `prepare`.
        command: what the report will say to run again.
        quiet: show no progress.
        checkpoint_every: seconds between the checkpoints of a cell.
    """
    torch.set_num_threads(plan.study.threads)
    study, missing = plan.study, plan.missing
    plan.store.plan(study.name, to_yaml(study), study.title, command, plan.cells)
    there: dict[str, DataSet] = {}
    with display(len(missing), sum(stop - start for start, stop in (c.span for c in missing)), quiet) as shown:
        for cell in missing:
            if cell.network not in there:
                there = {cell.network: plan.data[cell.network].to(study.device)}
            shown.begin(cell)
            data = there[cell.network]
            history = work(cell, data, plan.store, study.device, shown.evaluated, checkpoint_every)
            shown.end(cell, history)


@dataclass(frozen=True)
class Estimate:
    """What is left to do: cells, iterations, and seconds as measured by a short training of each network."""

    cells: int
    iterations: int
    seconds: float


def estimate(plan: Plan, iterations: int = 30) -> Estimate:
    """Time a few iterations and one evaluation of each variant, and add up what is missing.

    Args:
        plan: from `prepare`.
        iterations: how many to time.
    """
    torch.set_num_threads(plan.study.threads)
    seconds, total = 0.0, 0
    for name in plan.study.variants:
        cells = [cell for cell in plan.missing if cell.network == name]
        if not cells:
            continue
        step, image = _time(cells[0], plan.data[name].to(plan.study.device), plan.study.device, iterations)
        for cell in cells:
            start, stop = cell.span
            evaluations = -(-(stop - start) // cell.identity["train"]["evaluate_every"])
            total += stop - start
            seconds += step * (stop - start) + image * _images(plan.data[name], evaluations)
    return Estimate(len(plan.missing), total, seconds)


def _images(data: DataSet, evaluations: int) -> float:
    """How many images a cell evaluates: the validation split each time, the training split at the end, and the test
    set at the end and where validation is best so far, which is about a quarter of the times.
    """
    return evaluations * len(data.validation) + len(data.train) + (1 + evaluations / 4) * len(data.test)


def _time(cell: Cell, data: DataSet, device: str, iterations: int) -> tuple[float, float]:
    """Seconds an iteration, and seconds an image in evaluation."""
    from prunus.studies.cells import recipe_of
    from prunus.training import evaluate
    from prunus.training.loop import Trainer

    model = new_model(cell, data).to(device)
    trainer = Trainer(model, data, recipe_of(cell.setting, len(data.train), retrain=False), seed=0)
    trainer.step()
    began = time.perf_counter()
    for _ in range(iterations):
        trainer.step()
    trainer.sums.tolist()  # waits for a GPU
    step = (time.perf_counter() - began) / iterations
    began = time.perf_counter()
    evaluate(model, data, data.validation)
    return step, (time.perf_counter() - began) / len(data.validation)
