"""How a run shows where it stands: bars on a terminal, plain lines elsewhere, nothing when quiet."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from prunus.studies.cells import Cell
from prunus.studies.duration import duration
from prunus.training import Evaluation, History


class Display(Protocol):
    """What a runner tells of its progress."""

    def begin(self, cell: Cell) -> None:
        """A cell starts."""

    def evaluated(self, cell: Cell, evaluation: Evaluation) -> None:
        """The cell was evaluated."""

    def end(self, cell: Cell, history: History) -> None:
        """The cell is finished and filed."""


class Quiet:
    """Shows nothing."""

    def begin(self, cell: Cell) -> None:
        """Nothing."""

    def evaluated(self, cell: Cell, evaluation: Evaluation) -> None:
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
    """Two bars: the whole study, in iterations, and of the cells in training the one that began first."""

    def __init__(self, cells: int, iterations: int, progress: Progress) -> None:
        self._progress, self._cells, self._done, self._trained = progress, cells, 0, 0
        self._all = progress.add_task(f"0/{cells} cells", total=iterations, note="")
        self._one = progress.add_task("", total=None, note="")
        self._under_way: dict[str, int] = {}
        self._shown = ""

    def begin(self, cell: Cell) -> None:
        """Count the cell among those in training."""
        self._under_way[cell.key] = 0
        self._update()

    def evaluated(self, cell: Cell, evaluation: Evaluation) -> None:
        """Move the bars."""
        start, stop = cell.span
        done = self._under_way[cell.key] = evaluation.iteration - start
        if cell.key == next(iter(self._under_way)):
            if cell.key != self._shown:
                about = f"trial {cell.trial} round {cell.round} {cell.arm}"
                self._progress.reset(self._one, total=stop - start, description=about)
                self._shown = cell.key
            note = f"loss {evaluation.validation_loss:.4f} acc. {evaluation.validation_accuracy:.2%}"
            self._progress.update(self._one, completed=done, note=note)
        self._update()

    def end(self, cell: Cell, history: History) -> None:
        """Count the cell."""
        start, stop = cell.span
        del self._under_way[cell.key]
        self._done, self._trained = self._done + 1, self._trained + stop - start
        self._update(f"last: {history.early_stop.test_accuracy:.2%} at stop")

    def _update(self, note: str | None = None) -> None:
        description = f"{self._done}/{self._cells} cells, {len(self._under_way)} at once"
        noted: dict[str, Any] = {} if note is None else {"note": note}
        done = self._trained + sum(self._under_way.values())
        self._progress.update(self._all, completed=done, description=description, **noted)


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
