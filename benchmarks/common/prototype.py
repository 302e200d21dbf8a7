"""A prototype in C++ that trains one sparse LeNet-300-100 on one core: what the kernels are measured against.

It is not part of the project: PRUNUS_PROTOTYPES (or ../shared/prototypes) is the folder it is in. It is written for
AVX-512; elsewhere it is compiled with `halves.hpp`.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from prunus.core.masks import Masks
from prunus.data import DataSet
from prunus.kernels import native

BATCH = 60


class _Layer(ctypes.Structure):
    _fields_ = (
        ("outputs", ctypes.c_int),
        ("inputs", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("begins", "columns", "w", "m", "v", "b", "bm", "bv")),
    )


def prototype(source: DataSet, model: nn.Module, masks: Masks) -> Callable[[int], int] | None:
    """A function that trains the prototype by so many iterations, and returns how many; None where it is not there."""
    path = Path(os.environ.get("PRUNUS_PROTOTYPES", "../shared/prototypes")) / "ticket_train.cpp"
    if not path.is_file() or not shutil.which("g++"):
        print(f"(the prototype is left out: there is no {path}, or no g++)")
        return None
    library, keep = _compiled(path), []
    layers = (_Layer * 3)()
    for number, layer in enumerate(layer for layer in model.modules() if isinstance(layer, nn.Linear)):
        tensors = _csr(layer, masks[f"fc{number + 1}.weight"])
        keep.append(tensors)
        layers[number] = _Layer(layer.out_features, layer.in_features, *(t.data_ptr() for t in tensors))
    images = source.normalise(source.train.images).flatten(1).contiguous()
    labels, workspace = source.train.labels, torch.zeros(64 * 2000 + 64 * 1000)
    order = torch.randperm(len(labels))
    steps = 0

    def some(iterations: int) -> int:
        nonlocal steps
        chosen = order[: BATCH * iterations]
        pointers = (t.data_ptr() for t in (images, labels, chosen))
        library.train(
            layers,
            *map(ctypes.c_void_p, pointers),
            ctypes.c_int(iterations),
            ctypes.c_int(steps),
            ctypes.c_float(1.2e-3),
            ctypes.c_int(BATCH),
            ctypes.c_void_p(workspace.data_ptr()),
        )
        steps += iterations
        assert keep
        return iterations

    return some


def _compiled(path: Path) -> ctypes.CDLL:
    module = native()
    wide = module is not None and "avx512" in module.instruction_sets()
    flags = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fPIC", "-shared"]
    extra = ["-mprefer-vector-width=512"] if wide else ["-include", str(Path(__file__).with_name("halves.hpp"))]
    out = Path(tempfile.mkdtemp()) / "prototype.so"
    subprocess.run(["g++", *flags, *extra, str(path), "-o", str(out)], check=True, stderr=subprocess.DEVNULL)
    return ctypes.CDLL(str(out))


def _csr(layer: nn.Linear, mask: Tensor) -> list[Tensor]:
    """Row beginnings, columns, weights, two moments, biases, and two moments of theirs."""
    begins = torch.zeros(len(mask) + 1, dtype=torch.int32)
    begins[1:] = mask.sum(1).cumsum(0)
    columns = mask.nonzero()[:, 1].to(torch.int32)
    weights, biases = layer.weight.detach()[mask].clone(), layer.bias.detach().clone()
    moments = [torch.zeros_like(t) for t in (weights, weights, biases, biases)]
    return [begins, columns, weights, *moments[:2], biases, *moments[2:]]
