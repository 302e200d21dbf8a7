"""How a run shows where it stands: bars on a terminal, plain lines elsewhere, nothing when quiet."""

import sys
import time
from collections.abc import Iterator, Sequence
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

    def end(self, cell: Cell, history: History | None) -> None:
        """The cell is finished and filed; where nothing was trained it has no history."""

    def given_up(self, cell: Cell) -> None:
        """The cell cannot be done."""


class Quiet:
    """Shows nothing."""

    def begin(self, cell: Cell) -> None:
        """Nothing."""

    def evaluated(self, cell: Cell, evaluation: Evaluation) -> None:
        """Nothing."""

    def end(self, cell: Cell, history: History | None) -> None:
        """Nothing."""

    def given_up(self, cell: Cell) -> None:
        """Nothing."""


class Lines(Quiet):
    """One plain line for each finished cell."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells, self._done = len(cells), 0
        self._left, self._trained = sum(cell.iterations for cell in cells), 0
        self._began: float | None = None

    def begin(self, cell: Cell) -> None:
        """Look at the clock when the first training begins."""
        if cell.trains and self._began is None:
            self._began = time.monotonic()

    def end(self, cell: Cell, history: History | None) -> None:
        """Print what the cell came to."""
        self._done += 1
        self._trained += cell.iterations
        self._left -= cell.iterations
        said = self._training(history) if history else "computed"
        print(f"[{self._done}/{self._cells}] {cell.label}: {said}", flush=True)

    def _training(self, history: History) -> str:
        began = self._began or time.monotonic()
        seconds = (time.monotonic() - began) / max(1, self._trained) * self._left
        best, final = history.early_stop, history.final
        return (
            f"early stop at {best.iteration} (loss {best.validation_loss:.4f}, test {best.test_accuracy:.2%}), "
            f"test {final.test_accuracy:.2%} at the end, about {duration(seconds)} left"
        )


class Bars(Quiet):
    """Two bars: the whole study, in iterations, and of the cells in training the one that began first.

    A cell that only computes counts as much as the mean training.
    """

    def __init__(self, cells: Sequence[Cell], progress: Progress) -> None:
        self._progress, self._cells, self._done, self._trained = progress, len(cells), 0, 0
        trainings = [cell.iterations for cell in cells if cell.trains]
        self._computing = sum(trainings) // len(trainings) if trainings else 1
        total = sum(map(self._size, cells))
        self._all = progress.add_task(f"0/{len(cells)} cells", total=total, note="")
        self._one = progress.add_task("", total=None, note="")
        self._under_way: dict[str, int] = {}
        self._shown = ""

    def begin(self, cell: Cell) -> None:
        """Count the cell among those under way."""
        self._under_way[cell.key] = 0
        if not cell.trains:
            self._progress.reset(self._one, total=None, description=cell.about, note="")
            self._shown = cell.key
        self._update()

    def evaluated(self, cell: Cell, evaluation: Evaluation) -> None:
        """Move the bars."""
        start, stop = cell.span
        done = self._under_way[cell.key] = evaluation.iteration - start
        if cell.key == next(iter(self._under_way)):
            if cell.key != self._shown:
                self._progress.reset(self._one, total=stop - start, description=cell.about)
                self._shown = cell.key
            note = f"loss {evaluation.validation_loss:.4f} acc. {evaluation.validation_accuracy:.2%}"
            self._progress.update(self._one, completed=done, note=note)
        self._update()

    def end(self, cell: Cell, history: History | None) -> None:
        """Count the cell."""
        del self._under_way[cell.key]
        self._done, self._trained = self._done + 1, self._trained + self._size(cell)
        self._update(f"last: {history.early_stop.test_accuracy:.2%} at stop" if history else None)

    def given_up(self, cell: Cell) -> None:
        """Count it no more."""
        self._under_way.pop(cell.key, None)
        self._update()

    def _size(self, cell: Cell) -> int:
        return cell.iterations if cell.trains else self._computing

    def _update(self, note: str | None = None) -> None:
        description = f"{self._done}/{self._cells} cells, {len(self._under_way)} at once"
        noted: dict[str, Any] = {} if note is None else {"note": note}
        done = self._trained + sum(self._under_way.values())
        self._progress.update(self._all, completed=done, description=description, **noted)


@contextmanager
def display(cells: Sequence[Cell], quiet: bool) -> Iterator[Display]:
    """The display that fits where the output goes.

    Args:
        cells: what is to be done.
        quiet: show nothing.
    """
    if quiet:
        yield Quiet()
    elif not sys.stdout.isatty():
        yield Lines(cells)
    else:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        with Progress(*columns, console=Console(), transient=True, expand=True) as progress:
            yield Bars(cells, progress)
