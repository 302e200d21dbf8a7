"""Doing the cells of a study in this process: stacks are kept full with whatever is ready to be trained."""

from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from prunus.core.errors import Invalid
from prunus.data import DataSet
from prunus.studies.cells import Cell
from prunus.studies.kinds import begin
from prunus.studies.progress import Display
from prunus.studies.schedule import Schedule
from prunus.studies.store import Store
from prunus.studies.work import GivenUp, Work
from prunus.training import Stack
from prunus.training.lane import Lane


class LocalRun:
    """Does the cells of a schedule, and files them: trains as many at once as is fastest, computes one at a time.

    Args:
        schedule: what to do.
        data: the data set of each variant, on the device to train on.
        store: where cells go.
        shown: what is told of the progress.
        cores: how many cores to use; None is all that this process may use.
        checkpoint_every: seconds between checkpoints.
    """

    def __init__(
        self,
        schedule: Schedule,
        data: Mapping[str, DataSet],
        store: Store,
        shown: Display,
        *,
        cores: int | None = None,
        checkpoint_every: float = 60.0,
    ) -> None:
        self._schedule, self._data, self._store, self._shown = schedule, data, store, shown
        self._cores, self._every = cores, checkpoint_every
        self._every_stack: list[Stack] = []
        self._stacks: dict[str, Stack] = {}  # the last that took a lane of a variant
        self._works: dict[Lane, Work] = {}
        self._filing: dict[Future[None], Work] = {}
        self.failures: list[str] = []

    def run(self) -> None:
        """Go on until nothing is left.

        Raises:
            Invalid: at the end, if there were cells that could not be done; all others are then filed.
        """
        # one thread: a cell is written while others are trained
        with ThreadPoolExecutor(1) as self._filer:
            while len(self._schedule):
                self._fill()
                for stack in self._busy():
                    for lane in stack.advance():
                        self._finish(self._works.pop(lane))
                self._collect()
        raise_failures(self.failures)

    def _busy(self) -> list[Stack]:
        return [stack for stack in self._every_stack if stack.busy]

    def _fill(self) -> None:
        for network in self._schedule.networks:
            while self._has_room(network) and (cell := self._schedule.take(network)):
                self._begin(cell)
                if not cell.trains:
                    return  # what is finished is told of, and what is in training goes on, before the next

    def _has_room(self, network: str) -> bool:
        return network not in self._stacks or self._stacks[network].room > 0

    def _begin(self, cell: Cell) -> None:
        def watch(evaluation: object) -> None:
            self._shown.evaluated(cell, evaluation)  # type: ignore[arg-type]

        self._shown.begin(cell)
        try:
            work = begin(cell, self._data[cell.network], self._store, watch)
        except GivenUp as error:
            self._give_up(cell, error)
            return
        if work.lane is None:
            self._finish(work)
            return
        self._works[work.lane] = work
        self._stack(cell.network, work.lane).add(work.lane)

    def _finish(self, work: Work) -> None:
        try:
            work.measure()
        except GivenUp as error:
            self._give_up(work.cell, error)
            return
        self._filing[self._filer.submit(work.file, self._store)] = work

    def _give_up(self, cell: Cell, error: GivenUp) -> None:
        self.failures.append(str(error))
        self._schedule.given_up(cell)
        self._shown.given_up(cell)

    def _stack(self, network: str, lane: Lane) -> Stack:
        stack = self._stacks.get(network)
        if stack is None or not stack.takes(lane):
            stack = next((other for other in self._every_stack if other.takes(lane)), None)
            if stack is None:
                stack = Stack(cores=self._cores, checkpoint_every=self._every)
                self._every_stack.append(stack)
            self._stacks[network] = stack
        return stack

    def _collect(self) -> None:
        """Take note of what is filed; where there is nothing else to do, wait for it."""
        if self._filing and not self._busy():
            wait(self._filing, return_when=FIRST_COMPLETED)
        for future in [future for future in self._filing if future.done()]:
            work = self._filing.pop(future)
            future.result()
            self._schedule.filed(work.cell)
            self._shown.end(work.cell, work.history)


def raise_failures(failures: Sequence[str]) -> None:
    """Say which cells could not be done, if there are any.

    Raises:
        Invalid: with the first of them.
    """
    if failures:
        more = f" (and {len(failures) - 1} more like it)" if len(failures) > 1 else ""
        raise Invalid(failures[0] + more)
