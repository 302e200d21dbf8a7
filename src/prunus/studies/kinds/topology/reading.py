"""The result of a topology study in plain words."""

from collections.abc import Callable, Sequence
from statistics import fmean

from prunus.studies.report.curves import networks
from prunus.studies.report.view import View
from prunus.studies.report.words import called, percent
from prunus.studies.results import CellResult, Results


def reading(view: View, results: Results) -> list[str]:
    """A paragraph for each network: where each arm's masks have come to."""
    return [_paragraph(view, [cell for cell in results.cells if cell.network == n], n) for n in networks(results)]


def _paragraph(view: View, cells: Sequence[CellResult], network: str) -> str:
    by_arm = {arm: own for arm in view.arms if (own := [cell for cell in cells if cell.arm == arm])}
    return f"{called(network)}: {'; '.join(_arm(view.arms[arm].words, own) for arm, own in by_arm.items())}."


def _arm(words: str, cells: Sequence[CellResult]) -> str:
    density = percent(100 * fmean(cell.density for cell in cells))
    parts = [
        f"{words} ends with {density} % of the weights",
        f"{_mean(cells, lambda m: 100 * m['explored'][-1])} % were ever active",
        f"{_mean(cells, lambda m: 100 * m['lost'][-1])} % of its first mask are gone",
        f"{_mean(cells, lambda m: 100 * m['dead'][-1])} % of the units are dead",
    ]
    moved = max(cells[0].measures["layers"], key=lambda name: _factor(cells, name))
    if _factor(cells, moved) > 1.05:
        first, last = (percent(_density(cells, moved, at)) for at in (0, -1))
        parts.append(f"the density of {moved.removesuffix('.weight')} goes from {first} to {last} %")
    return ", ".join(parts)


def _mean(cells: Sequence[CellResult], read: Callable[[dict], float]) -> str:
    return f"{fmean(read(dict(cell.measures)) for cell in cells):.1f}"


def _density(cells: Sequence[CellResult], layer: str, at: int) -> float:
    return 100 * fmean(cell.measures["layers"][layer][at] for cell in cells)


def _factor(cells: Sequence[CellResult], layer: str) -> float:
    """By how much a layer's density has changed over the training."""
    first, last = (max(_density(cells, layer, at), 1e-9) for at in (0, -1))
    return max(first / last, last / first)
