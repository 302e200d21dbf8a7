"""How long a study would train here: each network is trained for a moment, dense and sparse; the rest is a rule."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.data import DataSet
from prunus.studies.cells import Cell
from prunus.studies.kinds import KINDS
from prunus.studies.kinds.kind import Kind
from prunus.studies.runner import Plan, on_device
from prunus.studies.work import new_model
from prunus.training import Lane, Stack
from prunus.training.cores import available_cores


@dataclass(frozen=True)
class Estimate:
    """What is left to do.

    Attributes:
        cells: how many cells are to be trained.
        iterations: of these.
        seconds: that they would take, as measured by a short training of each network.
        computing: how many more cells only compute something; of their time nothing is known.
    """

    cells: int
    iterations: int
    seconds: float
    computing: int = 0


def estimate(plan: Plan, iterations: int = 30) -> Estimate:
    """Time a few iterations and one evaluation of each variant, and add up what is missing.

    Args:
        plan: from `prepare`.
        iterations: how many to time.
    """
    torch.set_num_threads(plan.study.threads)
    missing, data = [cell for cell in plan.missing if cell.trains], on_device(plan)
    at_once = max(1, available_cores() // plan.study.threads) if plan.study.device == "cpu" else 1
    kind = KINDS[plan.study.study]
    seconds, total = 0.0, 0
    for cells in _alike(missing, kind):
        images = data[cells[0].network]
        dense, sparse = _timed(kind, cells[0], images, iterations)
        for cell in cells:
            total += cell.iterations
            evaluations = -(-cell.iterations // int(cell.recipe.evaluate_every))
            left = (cell.density - _SPARSEST) / (1 - _SPARSEST)
            step, image = (max(0.0, b + (a - b) * left) for a, b in zip(dense, sparse, strict=True))
            seconds += (step * cell.iterations + image * _images(images, evaluations)) / at_once
    return Estimate(len(missing), total, seconds, len(plan.missing) - len(missing))


def _alike(cells: Sequence[Cell], kind: Kind) -> Iterable[list[Cell]]:
    """Cells whose networks train as long, but for their densities."""
    groups: dict[object, list[Cell]] = {}
    for cell in cells:
        own = (cell.arm, cell.identity.get("width")) if kind.stand_in else ()
        groups.setdefault((cell.network, *own), []).append(cell)
    return groups.values()


def _timed(kind: Kind, cell: Cell, data: DataSet, iterations: int) -> list[tuple[float, float]]:
    """Seconds an iteration, and seconds an image in evaluation: dense, and at `_SPARSEST`."""
    if kind.stand_in:
        return [_time(cell, kind.stand_in(cell, data), data, None, iterations)] * 2
    model = new_model(cell, data)
    masks = Masks.random(model, _SPARSEST, generator=generator(0, "masks"))
    return [_time(cell, model, data, kept, iterations) for kept in (None, masks)]


#: Seconds that one timing may take.
_PATIENCE = 2.0

#: The density of the second timing; in between, time goes with the number of weights.
_SPARSEST = 0.05


def _images(data: DataSet, evaluations: int) -> float:
    """How many images a cell evaluates: the validation split each time, the training split at the end, and the test
    set at the end and where validation is best so far, which is about a quarter of the times.
    """
    return evaluations * len(data.validation) + len(data.train) + (1 + evaluations / 4) * len(data.test)


def _time(cell: Cell, model: nn.Module, data: DataSet, masks: Masks | None, iterations: int) -> tuple[float, float]:
    """Seconds an iteration, and seconds an image in evaluation, of one lane on the cores of one."""
    device = data.train.images.device
    lane = Lane(model.to(device), data, cell.recipe, masks=masks.to(device) if masks else None)
    stack = Stack(cores=1, size=1)
    stack.add(lane)
    stack.admit()
    engine = stack.engine
    assert engine is not None
    engine.advance([lane], [1])
    began = time.perf_counter()
    engine.advance([lane], [1])
    iterations = max(1, min(iterations, int(_PATIENCE / max(time.perf_counter() - began, 1e-6))))
    began = time.perf_counter()
    engine.advance([lane], [iterations])
    lane.sums.tolist()  # waits for a GPU
    step = (time.perf_counter() - began) / iterations
    began = time.perf_counter()
    engine.evaluate([lane], "validation")
    return step, (time.perf_counter() - began) / len(data.validation)
