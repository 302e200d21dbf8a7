"""What runs on a worker: the cells that it is given are done as they would be at home, and told of as they go.

A worker is one process of `prunus run --workers`. It loads the study's data once, and trains whatever it is given in
one thread, by `LocalRun`. The driver asks it for news again and again, and gives it more cells with each question.
"""

import json
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Literal

import torch
from pydantic import ValidationError

from prunus.core.errors import Invalid
from prunus.studies.cells import Cell
from prunus.studies.config import Study
from prunus.studies.explain import explain
from prunus.studies.kinds import KINDS
from prunus.studies.local import LocalRun
from prunus.studies.runner import on_device, prepare
from prunus.studies.schedule import Schedule
from prunus.studies.store import Store
from prunus.training import Evaluation, History

#: Seconds without a question after which a worker takes the driver for lost, and ends.
FORSAKEN = 600.0

#: Seconds in which a new file has to be seen in a shared folder that nobody has looked into before.
_SOON = 5.0

#: Seconds that a shared disk may take to show one machine what another has written.
SHARED_AFTER = 120.0


@dataclass(frozen=True)
class Brief:
    """What a worker is told at its start.

    Attributes:
        study: the resolved study as JSON.
        out: the results folder.
        token: the name of a file there that the driver has left, and what it holds.
        digests: of the data of each variant.
        cores: how many cores the worker has.
        checkpoint_every: seconds between checkpoints.
    """

    study: str
    out: str
    token: tuple[str, str]
    digests: Mapping[str, str]
    cores: int
    checkpoint_every: float


@dataclass(frozen=True)
class News:
    """What a worker has to tell.

    | kind | key | what |
    | --- | --- | --- |
    | begun | of a cell under way | |
    | evaluated | of a cell | its `Evaluation` |
    | filed | of a cell | its `History`; None where nothing was trained |
    | given up | of a cell that cannot be done | why |
    | room | name of a variant that more cells can be trained of at once | |
    | failed | | the error, which ends the study |
    """

    kind: Literal["begun", "evaluated", "filed", "given up", "room", "failed"]
    key: str = ""
    what: Any = None


class Worker:
    """Trains cells as they are given, in a thread of its own.

    Args:
        brief: the study and this worker's share of it.

    Raises:
        Invalid: if the results folder or the data are not those of the driver.
    """

    def __init__(self, brief: Brief) -> None:
        out = Path(brief.out)
        _check_shared(out, *brief.token)
        self._plan = prepare(_study(brief.study), out)
        for name, data in self._plan.data.items():
            if data.digest != brief.digests[name]:
                source = self._plan.study.variants[name].data.name
                raise Invalid(f"data {source!r} differ from those of the same name where the study was started")
        self._cells = {cell.key: cell for cell in self._plan.cells}
        self._brief, self._news, self._asked = brief, SimpleQueue[News](), time.monotonic()
        self._schedule = Fed(lambda network: self._news.put(News("room", network)))
        Thread(target=self._train, daemon=True).start()

    def exchange(self, keys: Sequence[str], patience: float) -> list[News]:
        """Take the cells with these keys, and tell the news.

        Args:
            keys: of cells whose parents are filed.
            patience: how many seconds to wait for news where there are none.
        """
        self._asked = time.monotonic()
        for key in keys:
            cell = self._cells[key]
            if self._plan.store.has(key):  # by a worker that was thought to be lost
                self._news.put(News("filed", key, self._plan.store.history(key)))
                continue
            if not all(appears(self._plan.store, parent) for parent in cell.parents):
                self._news.put(News("failed", what=Invalid(f"{cell.label}: {_not_shared(self._plan.store.root)}")))
                continue
            self._schedule.give(cell)
        news: list[News] = []
        try:
            news.append(self._news.get(timeout=patience))
            while True:
                news.append(self._news.get_nowait())
        except Empty:
            return news

    def _tell(self, news: News) -> None:
        if time.monotonic() - self._asked > FORSAKEN:
            os._exit(1)
        self._news.put(news)

    def _train(self) -> None:
        torch.set_num_threads(self._plan.study.threads)  # a setting of each thread's own
        try:
            data = on_device(self._plan)
            while True:
                self._schedule.wait()
                self._run(data)
        except Invalid as error:
            self._news.put(News("failed", what=Invalid(str(error))))
        except OSError as error:
            self._news.put(News("failed", what=OSError(error.errno, error.strerror or str(error), error.filename)))
        except Exception:  # the driver shows where it came from
            self._news.put(News("failed", what=RuntimeError(traceback.format_exc())))

    def _run(self, data: Mapping[str, Any]) -> None:
        every = self._brief.checkpoint_every
        run = LocalRun(
            self._schedule,
            data,
            self._plan.store,
            Told(self._tell),
            cores=self._brief.cores,
            checkpoint_every=every,
        )
        try:
            run.run()
        except Invalid:
            if not self._schedule.done:  # not the cells that were given up, but a file that is damaged, or the like
                raise
        for cell, reason in zip(self._schedule.lost, run.failures, strict=True):
            self._news.put(News("given up", cell.key, reason))
        self._schedule.lost.clear()


class Fed(Schedule):
    """A schedule that is given cells while it is worked on.

    Args:
        room: told the variant when more cells of it could be trained at once than there are.
    """

    def __init__(self, room: Callable[[str], None]) -> None:
        super().__init__([])
        self._given = SimpleQueue[Cell]()
        self._room = room
        self._told: set[str] = set()
        self._here: dict[str, None] = {}  # the variants of the cells that came
        self.lost: list[Cell] = []

    def give(self, cell: Cell) -> None:
        """Let the cell be done; called from another thread."""
        self._given.put(cell)

    def wait(self) -> None:
        """Wait for a cell."""
        self._take_in(self._given.get())

    def __len__(self) -> int:
        """How many cells are not filed."""
        try:
            while True:
                self._take_in(self._given.get_nowait())
        except Empty:
            return super().__len__()

    @property
    def done(self) -> bool:
        """Whether all cells are filed or given up, but for such as came this moment."""
        return not super().__len__()

    @property
    def networks(self) -> list[str]:
        """All variants that had cells here: `take` then learns of which there could be more."""
        ready = super().networks
        return [*ready, *(name for name in self._here if name not in ready)]

    def take(self, network: str | None = None) -> Cell | None:
        """The most urgent ready cell; asked for one of a variant that has none, it says that there is room."""
        cell = super().take(network)
        if cell is None and network is not None and network not in self._told:
            self._told.add(network)
            self._room(network)
        return cell

    def given_up(self, cell: Cell) -> None:
        """The cell cannot be done."""
        self.lost.append(cell)
        super().given_up(cell)

    def _take_in(self, cell: Cell) -> None:
        self._told.clear()
        self._here[cell.network] = None
        self.add(cell)


class Told:
    """A display that passes everything on.

    Args:
        tell: takes the news.
    """

    def __init__(self, tell: Callable[[News], None]) -> None:
        self._tell = tell

    def begin(self, cell: Cell) -> None:
        """A cell starts."""
        self._tell(News("begun", cell.key))

    def evaluated(self, cell: Cell, evaluation: Evaluation) -> None:
        """The cell was evaluated."""
        self._tell(News("evaluated", cell.key, evaluation))

    def end(self, cell: Cell, history: History | None) -> None:
        """The cell is finished and filed."""
        self._tell(News("filed", cell.key, history))

    def given_up(self, cell: Cell) -> None:
        """The worker tells of it, with the reason."""


def shell() -> type:
    """The class that Ray makes a worker of. It travels as code, for Prunus may be missing there, or be another one."""

    class PrunusWorker:
        """Checks that the worker is like the driver, and is a `Worker` then."""

        def start(self, versions: dict, brief: dict) -> dict:
            """Who this is, or under `refusal` why it cannot take part."""
            import os
            import platform
            import socket
            from importlib.metadata import PackageNotFoundError, version

            def installed(name: str) -> str:
                try:
                    return version(name).split("+")[0]
                except PackageNotFoundError:
                    return "none"

            who = {"host": socket.gethostname(), "process": os.getpid()}
            here = {"Python": ".".join(platform.python_version_tuple()[:2]), "torch": installed("torch")}
            try:
                from prunus._version import __version__

                here["Prunus"] = __version__
            except ModuleNotFoundError:
                here["Prunus"] = "none"
            other = [name for name in versions if here[name] != versions[name]]
            if other:
                has = " and ".join(f"{name} {here[name]}" for name in other)
                allowed = " and ".join(f"{name} {versions[name]}" for name in other)
                return {**who, "refusal": f"has {has}; allowed: {allowed}, as where the study was started"}
            from prunus.core.errors import Invalid
            from prunus.studies.worker import Brief, Worker

            try:
                self._worker = Worker(Brief(**brief))
            except Invalid as error:
                return {**who, "refusal": str(error)}
            return who

        def exchange(self, keys: list, patience: float) -> list:
            """See `Worker.exchange`."""
            return self._worker.exchange(keys, patience)

    return PrunusWorker


def appears(store: Store, key: str, seconds: float | None = None) -> bool:
    """Whether the cell is finished, or is seen to be within `seconds`: a shared disk may show it late.

    Args:
        store: where to look.
        key: of the cell.
        seconds: how long to look; default `SHARED_AFTER`.
    """
    until = time.monotonic() + (SHARED_AFTER if seconds is None else seconds)
    while not store.has(key):
        if time.monotonic() > until:
            return False
        if (store.root / "cells").is_dir():
            os.listdir(store.root / "cells")  # makes a network file system look again
        time.sleep(0.2)
    return True


def _study(text: str) -> Study[Any]:
    raw = json.loads(text)
    config = KINDS.look_up(raw["study"]).config
    try:
        return config.model_validate_json(text)
    except ValidationError as error:
        raise Invalid(explain(error, config, alone=len(raw["variants"]) == 1)) from error


def _check_shared(out: Path, name: str, content: str) -> None:
    until = time.monotonic() + _SOON
    while True:
        try:
            if (out / name).read_text(encoding="utf-8") == content and os.access(out, os.W_OK):
                return
        except OSError:
            pass
        if time.monotonic() > until:
            raise Invalid(_not_shared(out))
        time.sleep(0.2)


def _not_shared(out: Path) -> str:
    return f"the results folder {str(out)!r} is not shared; allowed: a folder that all machines have and can write to"
