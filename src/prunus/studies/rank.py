"""What each of the processes does that train the networks of a study together.

All go through the cells in the same order, one after the other. Process 0 files them and writes the checkpoints, and
computes those of which nothing is trained; none goes on before what it may read is written, and is seen by all.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress

import torch

from prunus.core.errors import Invalid
from prunus.studies.cells import Cell, work_of
from prunus.studies.kinds import begin
from prunus.studies.launch import end_with_starter, started_here
from prunus.studies.progress import Display, display
from prunus.studies.resolve import to_yaml
from prunus.studies.runner import Plan, on_device
from prunus.studies.schedule import Schedule
from prunus.studies.work import GivenUp
from prunus.training.processes import Processes
from prunus.training.shared import SharedStack

#: Seconds to wait for a file that process 0 has written to be seen: storage over a network may be late.
SEEN_WITHIN = 60.0
#: Seconds to wait, after an error, to be ended because another process has failed, whose error it then was.
_PATIENCE = 10.0


def take_part(plan: Plan, command: str, *, quiet: bool = False, checkpoint_every: float = 60.0) -> None:
    """Do what is missing, together with the other processes, each of which does the same.

    Args:
        plan: from `prepare`.
        command: what the report will say to run again.
        quiet: show no progress; only process 0 ever does.
        checkpoint_every: seconds between the checkpoints of a cell.

    Raises:
        Invalid: if cells could not be done (all others are then finished), or the processes cannot work together.
    """
    if started_here():
        end_with_starter()
    try:
        _take_part(plan, command, quiet, checkpoint_every)
    except (Invalid, OSError):
        raise
    except Exception:
        time.sleep(_PATIENCE)
        raise


def _take_part(plan: Plan, command: str, quiet: bool, checkpoint_every: float) -> None:
    study = plan.study
    torch.set_num_threads(study.threads)
    processes = Processes.join(study.device)
    torch.set_num_threads(study.threads)
    first = processes.rank == 0
    missing = _missing(plan, processes)
    if first:
        plan.store.plan(study.name, to_yaml(study), study.title, command, plan.cells)
    processes.wait()
    _see(plan, (plan.store.root / study.name / "cells.json").is_file)
    if first and not quiet:
        print(f"{study.title or study.name}: {len(plan.cells)} cells, {work_of(missing)}", flush=True)
    with display(missing, quiet or not first) as shown:
        failures = _do(plan, missing, processes, shown, checkpoint_every)
    processes.wait()
    processes.leave()
    if failures:
        more = f" (and {len(failures) - 1} more like it)" if len(failures) > 1 else ""
        raise Invalid(failures[0] + more)


def _do(plan: Plan, missing: list[Cell], processes: Processes, shown: Display, checkpoint_every: float) -> list[str]:
    """Do the cells; why some could not be done."""
    store, data, failures = plan.store, on_device(plan, processes.device), []
    schedule, stack = Schedule(missing), SharedStack(processes, checkpoint_every=checkpoint_every)
    while cell := schedule.take():
        shown.begin(cell)
        work, reason = None, None
        try:
            if cell.trains or processes.rank == 0:
                work = begin(cell, data[cell.network], store, _watch(shown, cell))
            if work and work.lane:
                stack.add(work.lane)
                while stack.busy:
                    stack.advance()
            if work and processes.rank == 0:
                work.measure()
                work.file(store)
        except GivenUp as error:
            reason = str(error)
        if reason := processes.agreed(reason):
            failures.append(reason)
            schedule.given_up(cell)
            shown.given_up(cell)
            continue
        _see(plan, lambda key=cell.key: store.has(key))
        schedule.filed(cell)
        shown.end(cell, work.history if work else None)
    return failures


def _missing(plan: Plan, processes: Processes) -> list[Cell]:
    """What process 0 finds missing, which another run may be filing meanwhile."""
    keys = processes.agreed([cell.key for cell in plan.missing])
    cells = {cell.key: cell for cell in plan.cells}
    if not cells.keys() >= set(keys):
        raise Invalid(f"process {processes.rank} was given another study, or other data, than process 0")
    return [cells[key] for key in keys]


def _see(plan: Plan, there: Callable[[], bool]) -> None:
    """Wait until a file that process 0 has written is seen here."""
    until = time.monotonic() + SEEN_WITHIN
    while not there():
        if time.monotonic() > until:
            raise Invalid(
                f"--out {str(plan.store.root)!r} is not one folder for all processes; allowed: shared storage"
            )
        for folder in (plan.store.root, plan.store.root / "cells"):  # asks again where answers are kept for a while
            with suppress(OSError):
                os.listdir(folder)
        time.sleep(0.2)


def _watch(shown: Display, cell: Cell) -> Callable[[object], None]:
    return lambda evaluation: shown.evaluated(cell, evaluation)  # type: ignore[arg-type]
