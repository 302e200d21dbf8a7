"""How a run shows where it stands: bars on a terminal, plain lines elsewhere, nothing when quiet."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from prunus.studies.cells import Cell
from prunus.studies.duration import duration
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
        self._done += 1
        self._trained += stop - start
        self._left -= stop - start
        seconds = (time.monotonic() - self._began) / self._trained * self._left
        best, final = history.early_stop, history.final
        print(
            f"[{self._done}/{self._cells}] {cell.label}: "
            f"early stop at {best.iteration} (loss {best.validation_loss:.4f}, test {best.test_accuracy:.2%}), "
            f"test {final.test_accuracy:.2%} at the end, about {duration(seconds)} left",
            flush=True,
        )


class Bars(Quiet):
    """Two bars: the whole study, in iterations, and the cell under way."""

    def __init__(self, cells: int, iterations: int, progress: Progress) -> None:
        self._progress, self._cells, self._done = progress, cells, 0
        self._all = progress.add_task(f"0/{cells} cells", total=iterations, note="")
        self._one = progress.add_task("", total=None, note="")
        self._before = self._first = 0

    def begin(self, cell: Cell) -> None:
        """Point the second bar at the cell."""
        self._first, stop = cell.span
        about = f"trial {cell.trial} round {cell.round} {cell.arm}"
        self._progress.reset(self._one, total=stop - self._first, description=about, note="")
        self._progress.update(self._all, description=f"{cell.network}, {self._done}/{self._cells} cells")

    def evaluated(self, evaluation: Evaluation) -> None:
        """Move both bars."""
        done = evaluation.iteration - self._first
        note = f"loss {evaluation.validation_loss:.4f} acc. {evaluation.validation_accuracy:.2%}"
        self._progress.update(self._one, completed=done, note=note)
        self._progress.update(self._all, completed=self._before + done)

    def end(self, cell: Cell, history: History) -> None:
        """Count the cell."""
        start, stop = cell.span
        self._done, self._before = self._done + 1, self._before + stop - start
        note = f"last: {history.early_stop.test_accuracy:.2%} at stop"
        self._progress.update(self._all, completed=self._before, note=note)


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
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        with Progress(*columns, console=Console(), transient=True, expand=True) as progress:
            yield Bars(cells, iterations, progress)
