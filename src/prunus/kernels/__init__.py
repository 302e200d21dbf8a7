"""Kernels in C++ for sparse products, shared by training and runtime; where they are missing, PyTorch does the work.

The compiled module `prunus.kernels._native` is built when Prunus is installed, if there is a C++ compiler. It holds the
kernels for several instruction sets and uses the best one that this CPU can run; the environment variable `PRUNUS_ISA`
(`portable`, `avx2` or `avx512`) forces one.
"""

import os
import warnings
from functools import cache
from importlib import import_module
from types import ModuleType

import torch  # noqa: F401  # first: the compiled module takes its OpenMP runtime from what PyTorch has loaded

__all__ = ["available", "native"]


def available() -> bool:
    """Whether the C++ kernels can be used here. Warns of nothing.

    Raises:
        ValueError: if the environment variable `PRUNUS_ISA` names an instruction set that this CPU cannot run.
    """
    return isinstance(_loaded(), ModuleType)


def native() -> ModuleType | None:
    """The compiled module, or None where PyTorch has to do the work: that is said once, as a warning.

    Raises:
        ValueError: if the environment variable `PRUNUS_ISA` names an instruction set that this CPU cannot run.
    """
    module = _loaded()
    if isinstance(module, ModuleType):
        return module
    _say_once(module)
    return None


@cache
def _loaded() -> ModuleType | str:
    """The module, or why it is not there."""
    try:
        module = import_module("prunus.kernels._native")
    except ModuleNotFoundError:
        return "were not built: install a C++ compiler (GCC or Clang) and then Prunus again; pip's -v shows the build"
    except ImportError as error:
        return f"cannot be loaded ({error}): install Prunus again"
    if forced := os.environ.get("PRUNUS_ISA"):
        _choose(module, forced)
    return module


def _choose(module: ModuleType, forced: str) -> None:
    sets = module.instruction_sets()
    if forced not in sets:
        raise ValueError(f"PRUNUS_ISA is {forced!r}; allowed on this CPU: {', '.join(sets)}")
    module.use(forced)


@cache
def _say_once(reason: str) -> None:
    warnings.warn(f"PyTorch's slower sparse products are used, since Prunus's C++ kernels {reason}", stacklevel=3)
