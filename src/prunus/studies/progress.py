"""How a run shows where it stands: bars on a terminal, plain lines elsewhere, nothing when quiet."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from prunus.studies.cells import Cell
from prunus.training import Evaluation, History


class Display(Protocol):
    """What a runner tells of its progress."""

    def begin(self, cell: Cell) -> None:
        """A cell starts."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """The cell was evaluated."""

    def end(self, cell: Cell, history: History) -> None:
        """The cell is finished and filed."""


class Quiet:
    """Shows nothing."""

    def begin(self, cell: Cell) -> None:
        """Nothing."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """Nothing."""

    def end(self, cell: Cell, history: History) -> None:
        """Nothing."""


class Lines(Quiet):
    """One plain line for each finished cell."""

    def __init__(self, cells: int, iterations: int) -> None:
        self._cells, self._left, self._done = cells, iterations, 0
        self._began, self._trained = time.monotonic(), 0

    def end(self, cell: Cell, history: History) -> None:
        """Print what the cell came to."""
        start, stop = cell.span
        self._done, self._trained, self._left = (
            self._done + 1,
            self._trained + stop - start,
            self._left - (stop - start),
        )
        seconds = (time.monotonic() - self._began) / self._trained * self._left
        best = history.early_stop
        print(
            f"[{self._done}/{self._cells}] {cell.label}: early stop {best.iteration}, loss {best.validation_loss:.4f}, "
            f"test {best.test_accuracy:.2%}, at the end {history.final.test_accuracy:.2%}, "
            f"about {timedelta(seconds=round(seconds))} left",
            flush=True,
        )


class Bars(Quiet):
    """Two bars: the whole study, in iterations, and the cell under way."""

    def __init__(self, cells: int, iterations: int, progress: Progress) -> None:
        self._progress, self._offset = progress, 0
        self._all = progress.add_task(f"{cells} cells", total=iterations, note="")
        self._one = progress.add_task("", total=None, note="")
        self._cells, self._done = cells, 0

    def begin(self, cell: Cell) -> None:
        """Point the second bar at the cell."""
        start, stop = cell.span
        self._offset = start
        self._progress.reset(self._one, total=stop - start, description=cell.label, note="")
        self._base = self._progress.tasks[0].completed

    def evaluated(self, evaluation: Evaluation) -> None:
        """Move both bars."""
        done = evaluation.iteration - self._offset
        note = f"loss {evaluation.validation_loss:.4f}  accuracy {evaluation.validation_accuracy:.2%}"
        self._progress.update(self._one, completed=done, note=note)
        self._progress.update(self._all, completed=self._base + done)

    def end(self, cell: Cell, history: History) -> None:
        """Count the cell."""
        self._done += 1
        start, stop = cell.span
        note = f"{self._done} done, last {history.early_stop.test_accuracy:.2%} at early stop"
        self._progress.update(self._all, completed=self._base + stop - start, note=note)


@contextmanager
def display(cells: int, iterations: int, quiet: bool) -> Iterator[Display]:
    """The display that fits where the output goes.

    Args:
        cells: how many cells are to be trained.
        iterations: how many iterations they have in all.
        quiet: show nothing.
    """
    if quiet:
        yield Quiet()
    elif not sys.stdout.isatty():
        yield Lines(cells, iterations)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
        )
        with Progress(*columns, console=Console(), transient=True) as progress:
            yield Bars(cells, iterations, progress)
