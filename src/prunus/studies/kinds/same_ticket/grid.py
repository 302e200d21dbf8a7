"""The cells of the same-ticket study.

In each trial: dense trainings, from which the masks of magnitude are computed at every density; learned masks; pairs of
these, which are only compared; and tickets that are trained. A pair's `start` and `parent` are its two masks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

from prunus.data import DataSet
from prunus.studies.cells import Cell
from prunus.studies.kinds.same_ticket.config import SameTicket, Setting
from prunus.studies.kinds.same_ticket.names import FINDERS, MAGNITUDE, between, within
from prunus.studies.kinds.supermask.config import MaskSetting
from prunus.studies.kinds.supermask.grid import Make, cells_of

#: The places of random tickets begin after those of more densities than there are.
SPACE = 1000


@dataclass(frozen=True)
class Run:
    """One search for a mask.

    Attributes:
        method: one of `FINDERS`.
        init: which draw of the initial weights.
        order: which data order.
        scores: which draw of the first scores; 0 for magnitude, which has none.
    """

    method: str
    init: int
    order: int
    scores: int = 0

    @property
    def said(self) -> str:
        """The run in words, without its method."""
        return f"init {self.init} order {self.order}" + (f" scores {self.scores}" if self.method != MAGNITUDE else "")


def runs_of(setting: Setting, method: str) -> list[Run]:
    """The runs of one method in a trial."""
    runs = [Run(method, i, j) for i, j in product(range(setting.inits), range(setting.orders))]
    if method != MAGNITUDE:
        runs += [Run(method, i, 0, s) for i, s in product(range(setting.inits), range(1, setting.scores))]
        runs += [Run(method, k, k, k) for k in range(1, min(setting.inits, setting.orders, setting.scores))]
    return runs


def arm_of(one: Run, other: Run) -> str | None:
    """What two runs are compared as; None where more than one thing differs between them, but not all."""
    if one.method != other.method:
        same = (one.init, one.order, one.scores) == (other.init, other.order, other.scores)
        return between(one.method, other.method) if same else None
    whole = ["init", "order"] + ["scores"] * (one.method != MAGNITUDE)
    differ = [name for name in whole if getattr(one, name) != getattr(other, name)]
    if len(differ) == len(whole):
        return within(one.method, "all")
    return within(one.method, differ[0]) if len(differ) == 1 else None


def expand(study: SameTicket, data: Mapping[str, DataSet]) -> list[Cell]:
    """All cells of `study`, parents before children; the first trial of every variant comes first."""
    return cells_of(study, data, _trial)


def _trial(make: Make, setting: MaskSetting) -> Iterator[Cell]:
    assert isinstance(setting, Setting)
    methods = [name for name in FINDERS if name == MAGNITUDE or name in setting.masks]
    dense = {run: _dense(make, setting, run) for run in runs_of(setting, MAGNITUDE)}
    yield from dense.values()
    for place, density in enumerate(setting.densities, 1):
        found: dict[Run, Cell] = {}
        for run in (run for method in methods for run in runs_of(setting, method)):
            if run.method == MAGNITUDE:
                found[run] = _largest(make, setting, run, place, density, dense[run])
            else:
                found[run] = _learned(make, setting, run, place, density)
            yield found[run]
        for one, other in combinations(found, 2):
            if arm := arm_of(one, other):
                yield _pair(make, arm, (one, other), place, density, (found[one], found[other]))
        if setting.random.draws and density == setting.ticket_density:
            yield from _tickets(make, setting, place, density, found)


def _dense(make: Make, setting: Setting, run: Run) -> Cell:
    own = {"weights": setting.weights, "init": run.init, "order": run.order}
    return _as(make.dense("dense", 0, run.said), "dense", own)


def _largest(make: Make, setting: Setting, run: Run, place: int, density: float, dense: Cell) -> Cell:
    cell = make.dense(MAGNITUDE, place, f"density {density:g} {run.said}")
    own = {"density": density, "weights": setting.weights, "init": run.init, "order": run.order}
    return _as(cell, "largest", own, trains=False, parent=dense.key)


def _learned(make: Make, setting: Setting, run: Run, place: int, density: float) -> Cell:
    cell = make.masked(run.method, place, f"density {density:g} {run.said}", density)
    own = {"weights": setting.weights, "init": run.init, "order": run.order, "scores": run.scores}
    return _as(cell, "learned", own)


def _pair(make: Make, arm: str, runs: tuple[Run, Run], place: int, density: float, cells: tuple[Cell, Cell]) -> Cell:
    one, other = runs
    cell = make.dense(arm, place, f"density {density:g} {one.said} and {other.said}")
    return _as(cell, "pair", {"density": density}, trains=False, start=cells[0].key, parent=cells[1].key)


def _tickets(make: Make, setting: Setting, place: int, density: float, found: Mapping[Run, Cell]) -> Iterator[Cell]:
    """The tickets of the first data order, and random ones with the layer densities of the first of these."""
    for run in (run for run in found if (run.method, run.order) == (MAGNITUDE, 0)):
        cell = make.dense("ticket", place, f"density {density:g} {run.said}")
        own = {"density": density, "weights": setting.weights, "init": run.init, "order": 0}
        yield replace(_as(cell, "ticket", own, parent=found[run].key), density=density)
    first = Run(MAGNITUDE, 0, 0)
    for draw in range(setting.random.draws):
        cell = make.dense("random", 0, f"density {density:g} draw {draw}")
        own = {"density": density, "weights": setting.weights, "init": 0, "order": 0, "draw": draw}
        cell = replace(_as(cell, "ticket", own, parent=found[first].key), density=density)
        yield replace(cell, round=SPACE + cell.trial * setting.random.draws + draw)


def _as(
    cell: Cell,
    work: str,
    own: Mapping[str, Any],
    *,
    trains: bool = True,
    start: str | None = None,
    parent: str | None = None,
) -> Cell:
    """The cell with its parents, with all that determines it, and with the name of the work on it."""
    identity = {**cell.identity, "work": work, "start": start, "parent": parent, **own}
    if not trains:
        identity = {name: value for name, value in identity.items() if name not in ("train", "span")}
    return replace(cell, identity=identity, start=start, parent=parent)
