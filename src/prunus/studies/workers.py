"""Doing the cells of a study on Ray workers: `prunus run --workers`.

The driver, which is the process that was started, keeps the graph of the study. It hands out cells that are ready,
hears of each as soon as it is filed, and hands out those that have become ready by it. What a worker holds is all that
can be lost with it; its cells are given to others, which go on from the last checkpoints. Tensors never pass through
the driver: cells are files of the results folder, which all machines share.
"""

import os
import secrets
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prunus._version import __version__
from prunus.core.errors import Invalid
from prunus.core.files import write_text
from prunus.studies.cells import Cell
from prunus.studies.cluster import existing, private
from prunus.studies.crew import Crew, Where, crew_here, crew_there, memory_of_a_worker
from prunus.studies.dealing import Hand, deal
from prunus.studies.local import raise_failures
from prunus.studies.progress import Display, display
from prunus.studies.resolve import to_yaml
from prunus.studies.runner import Plan
from prunus.studies.schedule import Schedule
from prunus.studies.worker import Brief, News, appears, shell
from prunus.training import History

#: How often a cell may lose its worker without getting any further.
TRIES = 3

#: Seconds that a question for news waits at the worker, and the driver for answers.
PATIENCE = 1.0

#: Seconds without any worker after which the driver looks for the reason.
_UNEASY = 30.0


def run_on_workers(
    plan: Plan, command: str, where: Where, *, quiet: bool = False, checkpoint_every: float = 60.0
) -> None:
    """Do what is missing on workers, to the same records as `prunus.studies.runner.run` does.

    Args:
        plan: from `prepare`.
        command: what the report will say to run again.
        where: what `--workers` asks for.
        quiet: print nothing.
        checkpoint_every: seconds between the checkpoints of a cell.

    Raises:
        Invalid: if there can be no such workers, one of them refuses, or a cell loses its worker again and again; at
            the end, if there were cells that could not be done: all others are then finished.
    """
    study, missing = plan.study, plan.missing
    demand = (study.device, study.threads, len(missing), memory_of_a_worker())
    crew = crew_here(where, *demand) if where.address is None else None
    if not missing:
        plan.store.plan(study.name, to_yaml(study), study.title, command, plan.cells)
        return
    with private(crew.count * crew.cores) if crew else existing(where.address or "") as ray:
        if crew is None:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            crew = crew_there(nodes, where.address or "", *demand)
        plan.store.plan(study.name, to_yaml(study), study.title, command, plan.cells)
        with _mark(plan.store.root) as token, display(missing, quiet) as shown:
            brief = Brief(
                study=_absolute(plan),
                out=os.path.abspath(plan.store.root),
                token=token,
                digests={name: data.digest for name, data in plan.data.items()},
                cores=crew.cores,
                checkpoint_every=checkpoint_every,
            )
            RemoteRun(Schedule(missing), plan, shown, ray, crew, brief, quiet).run()


class RemoteRun:
    """Hands out the cells of a schedule to workers.

    Args:
        schedule: what to train.
        plan: the study.
        shown: what is told of the progress.
        ray: Ray, connected.
        crew: how many workers to have.
        brief: what they are told.
        quiet: print nothing.
    """

    def __init__(
        self, schedule: Schedule, plan: Plan, shown: Display, ray: Any, crew: Crew, brief: Brief, quiet: bool
    ) -> None:
        self._schedule, self._store, self._shown = schedule, plan.store, shown
        self._order = {cell.key: place for place, cell in enumerate(plan.cells)}
        self._ray, self._crew, self._brief, self._quiet = ray, crew, asdict(brief), quiet
        # an empty worker is given this many cells; then it says whether there is room for more
        self._first = max(1, crew.cores // plan.study.threads) if plan.study.device == "cpu" else 8
        self._hands: list[Hand] = []
        self._begun: set[str] = set()
        self._filed: list[str] = []
        self._tries: Counter[str] = Counter()
        self._furthest: Counter[str] = Counter()
        self._deaths, self._told = 0, False
        self._failures: dict[str, str] = {}

    def run(self) -> None:
        """Train until nothing is left.

        Raises:
            Invalid: see `run_on_workers`.
        """
        resources = {"num_cpus": self._crew.cores, "num_gpus": self._crew.gpus, "scheduling_strategy": "SPREAD"}
        if self._crew.memory:
            resources["memory"] = self._crew.memory
        self._worker = self._ray.remote(**resources)(shell())
        self._seen = time.monotonic()
        try:
            self._hands = [self._hire() for _ in range(self._crew.count)]
            while len(self._schedule):
                self._hand_out()
                self._listen()
            self._see_all()
        except ConnectionError as error:
            raise Invalid(f"the connection to the cluster was lost ({error}); the same command goes on") from error
        finally:
            for hand in self._hands:
                with suppress(Exception):
                    self._ray.kill(hand.actor)
        raise_failures([self._failures[key] for key in sorted(self._failures, key=self._order.__getitem__)])

    def _hire(self) -> Hand:
        versions = {"Python": f"{sys.version_info[0]}.{sys.version_info[1]}", "torch": _torch(), "Prunus": __version__}
        actor = self._worker.remote()
        return Hand(actor, actor.start.remote(versions, self._brief))

    def _hand_out(self) -> None:
        doubtful = {key for key, lost in self._tries.items() if lost == TRIES - 1}
        free = [hand for hand in self._hands if hand.ready and hand.asked is None]
        for hand, cells in deal(self._schedule, free, self._hands, self._first, doubtful):
            hand.asked = hand.actor.exchange.remote([cell.key for cell in cells], PATIENCE)
        for hand in free:
            if hand.asked is None and hand.held:
                hand.asked = hand.actor.exchange.remote([], PATIENCE)

    def _listen(self) -> None:
        asked = {hand.asked: hand for hand in self._hands if hand.asked is not None}
        answered, _ = self._ray.wait(list(asked), num_returns=1, timeout=PATIENCE)
        for question in answered:
            self._hear(asked[question])
        if any(hand.ready for hand in self._hands):
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > _UNEASY:
            self._seen = time.monotonic()
            self._look_around()

    def _hear(self, hand: Hand) -> None:
        question, hand.asked = hand.asked, None
        try:
            answer = self._ray.get(question)
        except self._ray.exceptions.RayActorError as error:
            self._lose(hand, error)
            return
        except self._ray.exceptions.ActorUnschedulableError as error:
            raise Invalid(f"the cluster cannot start a worker ({' '.join(str(error).split())})") from error
        if hand.ready:
            for news in answer:
                self._act(hand, news)
        elif "refusal" in answer:
            raise Invalid(f"worker on {answer['host']}: {answer['refusal']}")
        else:
            hand.ready, self._deaths = True, 0

    def _act(self, hand: Hand, news: News) -> None:
        cell = hand.held.get(news.key)
        match news.kind:
            case "room":
                hand.room.add(news.key)
            case "failed":
                raise news.what
            case "begun" if cell:
                self._begin(cell)
            case "evaluated" if cell:
                self._shown.evaluated(cell, news.what)
                if news.what.iteration > self._furthest[cell.key]:
                    self._furthest[cell.key] = news.what.iteration
                    del self._tries[cell.key]
            case "filed" if cell:
                del hand.held[cell.key]
                self._end(cell, news.what)
            case "given up" if cell:
                del hand.held[cell.key]
                self._failures[cell.key] = news.what
                self._schedule.given_up(cell)
                self._shown.given_up(cell)

    def _begin(self, cell: Cell) -> None:
        self._begun.add(cell.key)
        self._shown.begin(cell)

    def _end(self, cell: Cell, history: History | None) -> None:
        if cell.key not in self._begun:
            self._begin(cell)
        self._filed.append(cell.key)
        self._schedule.filed(cell)
        self._shown.end(cell, history)

    def _lose(self, hand: Hand, error: Exception) -> None:
        """The worker is gone: what it had not filed is for others, and another worker takes its place."""
        self._hands.remove(hand)
        self._ray.kill(hand.actor)  # it may be out of reach and still at work
        why = (
            "out of memory" if "memory" in str(error).split("Some common causes")[0] else "its process or machine ended"
        )
        if not hand.ready:
            self._deaths += 1
            if self._deaths >= TRIES * self._crew.count:
                raise Invalid(f"workers are lost before they begin ({why})")
        for cell in hand.held.values():
            if self._store.has(cell.key):
                self._end(cell, self._store.history(cell.key))
                continue
            self._tries[cell.key] += 1
            if self._tries[cell.key] >= TRIES:
                raise Invalid(f"{cell.label}: its worker was lost {TRIES} times and it got no further ({why})")
            self._schedule.put_back(cell)
        self._hands.append(self._hire())

    def _look_around(self) -> None:
        """There has been no worker for a while: the cluster is full, or gone."""
        if not any(node["Alive"] and node["Resources"].get("CPU") for node in self._ray.nodes()):
            raise Invalid("Ray has lost its last machine; what is finished is kept, and the same command goes on")
        if not self._quiet and not self._told:
            self._told = True
            print(f"waiting for the cluster: none of {len(self._hands)} workers has found a place", file=sys.stderr)

    def _see_all(self) -> None:
        """Wait until what workers have filed is seen here too: the report is made of it."""
        for key in self._filed:
            if not appears(self._store, key):
                raise Invalid(
                    f"cell {key} was filed by a worker and is not in {self._store.root}; is that folder shared?"
                )


@contextmanager
def _mark(root: Path) -> Iterator[tuple[str, str]]:
    """A file in the results folder by which workers know it for the same: its name, and what it holds."""
    here = socket.gethostname()
    for path in root.glob(".workers-*"):  # left by a driver that was killed
        with suppress(OSError, ValueError, IndexError):
            host, process = path.read_text(encoding="utf-8").split()[:2]
            if host == here and not _runs(int(process)):
                path.unlink()
    path = root / f".workers-{secrets.token_hex(4)}"
    content = f"{here} {os.getpid()} {secrets.token_hex(16)}"
    write_text(path, content)
    try:
        yield path.name, content
    finally:
        path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _absolute(plan: Plan) -> str:
    """The study as JSON, with the folders of its data as any working directory finds them."""
    variants = {
        name: setting.model_copy(update={"data": setting.data.model_copy(update={"name": _path(setting.data.name)})})
        for name, setting in plan.study.variants.items()
    }
    return plan.study.model_copy(update={"variants": variants}).model_dump_json()


def _path(data: str) -> str:
    from prunus.data import DATASETS

    folder = Path(data).expanduser()
    return os.path.abspath(folder) if data not in DATASETS and folder.is_dir() else data


def _torch() -> str:
    import torch

    return torch.__version__.split("+")[0]
