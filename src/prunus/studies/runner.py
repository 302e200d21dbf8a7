"""Running a study: the cells that are missing, parents first; what is finished is never computed again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prunus.core.errors import Invalid
from prunus.data import DataSet
from prunus.studies.cells import Cell, work_of
from prunus.studies.config import Study
from prunus.studies.kinds import KINDS, expand
from prunus.studies.local import LocalRun
from prunus.studies.progress import display
from prunus.studies.resolve import to_yaml
from prunus.studies.schedule import Schedule
from prunus.studies.store import Store


@dataclass(frozen=True)
class Plan:
    """A study made ready: its cells, the data they need, and where they go."""

    study: Study[Any]
    cells: tuple[Cell, ...]
    data: Mapping[str, DataSet]
    store: Store

    @property
    def missing(self) -> list[Cell]:
        """The cells that are still to be done, parents first, each once though variants may share it."""
        return list({cell.key: cell for cell in self.cells if not self.store.has(cell.key)}.values())

    @property
    def left(self) -> str:
        """How many cells are still to be trained and to be computed, in words."""
        missing = self.missing
        return work_of(missing) if missing or any(cell.trains for cell in self.cells) else "0 to compute"

    @property
    def finished(self) -> int:
        """How many cells are finished."""
        return sum(self.store.has(cell.key) for cell in self.cells)


def prepare(study: Study[Any], out: Path) -> Plan:
    """Load the study's data and lay out its cells; nothing is written.

    Raises:
        Invalid: if the data cannot be had, a setting does not fit it, or `out` is no folder.
    """
    if out.exists() and not out.is_dir():
        raise Invalid(f"--out {str(out)!r} is a file; allowed: a folder, made if it is not there")
    kind = KINDS.look_up(study.study)
    loaded: dict[str, DataSet] = {}
    data: dict[str, DataSet] = {}
    for name, setting in study.variants.items():
        wanted = setting.data.model_dump_json()
        if wanted not in loaded:
            loaded[wanted] = kind.load(setting, study.seed)
        data[name] = loaded[wanted]
    cells = expand(study, data)
    for name in study.variants:
        if first := next((cell for cell in cells if cell.network == name), None):
            kind.check(first, data[name])
    return Plan(study, tuple(cells), data, Store(out))


def run(
    plan: Plan, command: str, *, quiet: bool = False, checkpoint_every: float = 60.0, cores: int | None = None
) -> None:
    """Do what is missing. Stopped at any point, the same call goes on where it was, to the same records.

    Args:
        plan: from `prepare`.
        command: what the report will say to run again.
        quiet: show no progress.
        checkpoint_every: seconds between the checkpoints of a cell.
        cores: how many cores to use; None is all that this process may use.

    Raises:
        Invalid: if cells could not be done; all others are then finished.
    """
    torch.set_num_threads(plan.study.threads)
    study, missing = plan.study, plan.missing
    plan.store.plan(study.name, to_yaml(study), study.title, command, plan.cells)
    with display(missing, quiet) as shown:
        LocalRun(
            Schedule(missing),
            on_device(plan),
            plan.store,
            shown,
            cores=cores,
            checkpoint_every=checkpoint_every,
        ).run()


def on_device(plan: Plan, device: torch.device | None = None) -> dict[str, DataSet]:
    """The data set of each variant on a device, the study's by default; variants with the same data share it."""
    there = {id(data): data.to(device or plan.study.device) for data in plan.data.values()}
    return {name: there[id(data)] for name, data in plan.data.items()}
