"""Masks as a table: what is kept, layer by layer."""

from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from math import prod

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Layer:
    """One row of `Masks.layers`: a parameter's name, its shape, and how many of its weights are kept."""

    name: str
    shape: tuple[int, ...]
    kept: int

    @property
    def total(self) -> int:
        """How many weights the parameter has."""
        return prod(self.shape)

    @property
    def density(self) -> float:
        """Kept / total (1 for a parameter without weights)."""
        return self.kept / self.total if self.total else 1.0


class Summary(Table):
    """A rich table of layers with kept, total, density, sparsity and compression; `str()` renders it as text."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        rows = list(layers)
        empty = [row.name for row in rows if row.total and not row.kept]
        collapsed = f"layer collapse: nothing is left of {', '.join(empty)}"
        super().__init__(show_footer=True, caption=collapsed if empty else None, caption_justify="left")
        kept, total = sum(r.kept for r in rows), sum(r.total for r in rows)
        footer = ("all", "", *_numbers(kept, total))
        headings = ("parameter", "shape", "kept", "of", "density", "sparsity", "compression")
        for heading, below in zip(headings, footer, strict=True):
            # names fold rather than being cut, numbers never wrap
            text = heading in ("parameter", "shape")
            self.add_column(heading, below, justify="left" if text else "right", overflow="fold", no_wrap=not text)
        for row in rows:
            self.add_row(row.name, "×".join(map(str, row.shape)), *_numbers(row.kept, row.total))

    def __str__(self) -> str:
        console = Console(file=StringIO(), width=110, color_system=None)
        console.print(self)
        assert isinstance(console.file, StringIO)
        return console.file.getvalue().rstrip()


def _numbers(kept: int, total: int) -> tuple[str, str, str, str, str]:
    density = kept / total if total else 1.0
    compression = f"{1 / density:.4g}×" if density else "∞"
    return f"{kept:,}", f"{total:,}", f"{density:.2%}", f"{1 - density:.2%}", compression
