from numpy.typing import NDArray
from torch import Tensor

openmp: bool
"""Whether the kernels use several threads: true when GCC compiled them."""

def instruction_sets() -> list[str]:
    """The instruction sets that this CPU can run, best first."""

def instruction_set() -> str:
    """The instruction set in use."""

def use(name: str) -> None:
    """Use this instruction set from now on; ValueError if this CPU cannot run it."""

def threads() -> int:
    """The number of threads that a parallel region gets now, on the calling thread."""

def probe(values: Tensor | NDArray) -> float:
    """The sum of the squares of a contiguous float32 vector."""
