"""What the C++ sources in `native/` give to Python; native/bind_*.cpp and native/module.cpp have the meanings."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

# Contiguous and on the CPU; a buffer of another type or shape is a TypeError, one of another size a ValueError.
_Buffer = Tensor | NDArray[Any]

openmp: bool
"""Whether the kernels were compiled to run on several threads."""

def instruction_sets() -> list[str]:
    """The instruction sets that this CPU can run, best first."""

def instruction_set() -> str:
    """The instruction set in use."""

def use(name: str) -> None:
    """Use this instruction set from now on; ValueError if this CPU cannot run it."""

def threads() -> int:
    """The number of threads that a parallel region gets now, on the calling thread."""

class Chain:
    """Linear layers with ReLU between them, with the state of an optimizer."""

    def __init__(self, units: Sequence[int], batch: int) -> None: ...
    def place(self, layer: int, weight: _Buffer, bias: _Buffer | None, mask: _Buffer | None, sparse: bool) -> None:
        """Make a layer anew; its moments are zero."""

    def write(self, layer: int, part: int, values: _Buffer, bias: _Buffer | None) -> None:
        """Set weights (part 0) or moments (1, 2) of a layer."""

    def read(self, layer: int, part: int, values: _Buffer, bias: _Buffer | None) -> None:
        """Copy weights (part 0) or moments (1, 2) of a layer out, into `values` and `bias`."""

    def seconds(self, layer: int, times: int) -> float: ...

def train(
    chains: Sequence[Chain],
    images: Sequence[_Buffer],
    labels: Sequence[_Buffer],
    scale: _Buffer,
    shift: _Buffer,
    rows: Sequence[_Buffer],
    rates: Sequence[_Buffer],
    taken: Sequence[int],
    sums: Sequence[_Buffer],
    rule: int,
    decay: float,
    momentum: float,
    nesterov: bool,
    threads: int,
) -> None: ...
def evaluate(
    chains: Sequence[Chain],
    images: _Buffer,
    labels: _Buffer,
    scale: _Buffer,
    shift: _Buffer,
    sums: _Buffer,
    threads: int,
) -> None: ...

class Pattern:
    """Which weights of a layer [outputs, inputs] are there."""

    def __init__(self, mask: _Buffer) -> None: ...
    @property
    def kept(self) -> int: ...

def sparse_forward(
    pattern: Pattern, values: _Buffer, bias: _Buffer | None, x: _Buffer, y: _Buffer, threads: int
) -> None: ...
def sparse_input_gradient(pattern: Pattern, values: _Buffer, dy: _Buffer, dx: _Buffer, threads: int) -> None: ...
def sparse_weight_gradient(pattern: Pattern, x: _Buffer, dy: _Buffer, values: _Buffer, threads: int) -> None: ...
def write_largest(
    scores: Sequence[_Buffer],
    weights: Sequence[_Buffer],
    outs: Sequence[_Buffer],
    keep: int,
    absolute: bool,
    in_order: bool,
    threads: int,
) -> tuple[float, int]: ...
def positions_of_bits(bits: _Buffer) -> NDArray[Any]: ...
def positions_of_largest(scores: _Buffer, keep: int, absolute: bool, threads: int) -> NDArray[Any] | None: ...
def score_gradient(gradient: _Buffer, weights: _Buffer, scores: _Buffer, out: _Buffer, threads: int) -> None: ...
