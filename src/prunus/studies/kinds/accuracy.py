"""Test accuracy, and the level of the dense network, as several kinds of study show them."""

from collections.abc import Iterable, Sequence

from prunus.studies.report.view import Curve, Line
from prunus.studies.results import CellResult


def accuracy(cell: CellResult) -> float | None:
    """Test accuracy at the end of training, in percent; None where nothing was trained."""
    return None if cell.final is None or cell.final.test_accuracy is None else 100 * cell.final.test_accuracy


def dense_level(cells: Sequence[CellResult], _curves: Sequence[Curve], /) -> Iterable[Line]:
    """The mean accuracy of the dense network, if it was trained."""
    found = [a for cell in cells if cell.arm == "dense" and (a := accuracy(cell)) is not None]
    return [Line("dense", y=sum(found) / len(found))] if found else []
