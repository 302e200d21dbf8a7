"""`Schedule`: which cells of a study can be done next.

A cell is ready when those it depends on are filed. Of the ready ones, that with the longest line of descendants comes
first: the rounds of a ticket depend on each other, its controls hold nobody up, so nobody waits at the end.
"""

from collections import defaultdict
from collections.abc import Sequence
from heapq import heappop, heappush

from prunus.studies.cells import Cell


class Schedule:
    """The cells of a study that are not filed yet.

    Args:
        cells: parents before children; parents that are not among them count as filed.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells = {cell.key: cell for cell in cells}
        self._order = {key: place for place, key in enumerate(self._cells)}
        self._children: dict[str, list[str]] = defaultdict(list)
        self._missing: dict[str, int] = {}
        for cell in self._cells.values():
            parents = self._parents(cell)
            self._missing[cell.key] = len(parents)
            for parent in parents:
                self._children[parent].append(cell.key)
        self._height: dict[str, int] = {}
        for key in reversed(self._cells):
            self._height[key] = 1 + max((self._height[child] for child in self._children[key]), default=0)
        self._ready: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        self._left = set(self._cells)
        for key, missing in self._missing.items():
            if not missing:
                self._push(key)

    def __len__(self) -> int:
        """How many cells are not filed, those under way included."""
        return len(self._left)

    @property
    def networks(self) -> list[str]:
        """The variants that have a cell ready, the most urgent first."""
        return sorted((name for name, heap in self._ready.items() if heap), key=lambda name: self._ready[name][0])

    @property
    def ready(self) -> int:
        """How many cells are ready."""
        return sum(map(len, self._ready.values()))

    def take(self, network: str | None = None) -> Cell | None:
        """The most urgent ready cell (of one variant), which is then no longer ready; None if there is none."""
        names = self.networks if network is None else [network]
        heap = self._ready[names[0]] if names else []
        return self._cells[heappop(heap)[-1]] if heap else None

    def add(self, cell: Cell) -> None:
        """One more cell, whose parents are filed; it comes after those that have been ready before."""
        self._cells[cell.key] = cell
        self._order[cell.key] = len(self._order)
        self._missing[cell.key], self._height[cell.key] = 0, 1
        self._left.add(cell.key)
        self._push(cell.key)

    def put_back(self, cell: Cell) -> None:
        """A cell that was taken is ready again."""
        self._push(cell.key)

    def filed(self, cell: Cell) -> None:
        """The cell is finished: its children may be ready."""
        self._left.discard(cell.key)
        for child in self._children[cell.key]:
            self._missing[child] -= 1
            if not self._missing[child] and child in self._left:
                self._push(child)

    def given_up(self, cell: Cell) -> None:
        """The cell cannot be done: nor can any that depends on it."""
        lost = [cell.key]
        while lost:
            key = lost.pop()
            self._left.discard(key)
            lost += [child for child in self._children[key] if child in self._left]

    def _push(self, key: str) -> None:
        heappush(self._ready[self._cells[key].network], (-self._height[key], self._order[key], key))

    def _parents(self, cell: Cell) -> set[str]:
        return {parent for parent in cell.parents if parent in self._cells}
