"""Masked linear layers of any network computed as sparse ones, where that takes less time.

The network is trained as a copy in which such a layer holds only the weights that are there; its dense weights are
written back when somebody looks. The results are those of the dense layer up to rounding, so whether sparse is faster
is measured once on a machine and remembered there: the same study then gives the same numbers again.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from math import log2
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core.files import write_json
from prunus.core.masks import Masks
from prunus.data import cache
from prunus.kernels import available, native
from prunus.kernels.sparse import Pattern, sparse_linear
from prunus.training.lane import Lane

#: Layers with fewer weights than this stay dense: a call costs more than what there is to save.
SMALLEST = 10_000


class SparseLinear(nn.Module):
    """A linear layer [outputs, inputs] of which only the weights of a pattern are there.

    Args:
        dense: the layer that it stands for; its bias is shared.
        mask: bool [outputs, inputs].
    """

    def __init__(self, dense: nn.Linear, mask: Tensor) -> None:
        super().__init__()
        self.pattern = Pattern.of(mask)
        self.values = nn.Parameter(self.pattern.values(dense.weight.detach()))
        self.bias = dense.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """[…, inputs] to […, outputs]."""
        return sparse_linear(inputs, self.values, self.pattern, self.bias)


def with_sparse_layers(lane: Lane) -> tuple[nn.Module, dict[str, SparseLinear]]:
    """The network of `lane` with sparse layers where they are faster, and these by name; itself where there is none."""
    chosen = {
        name: mask
        for name, mask in _candidates(lane.model, lane.masks or Masks({})).items()
        if _sparse_is_faster(mask, lane.recipe.batch)
    }
    if not chosen:
        return lane.model, {}
    network = deepcopy(lane.model)
    sparse = {}
    for name, mask in chosen.items():
        parent, _, own = name.rpartition(".")
        holder = network.get_submodule(parent)
        sparse[name] = SparseLinear(getattr(holder, own), mask)
        setattr(holder, own, sparse[name])
    return network, sparse


@torch.no_grad()
def write_back(network: nn.Module, sparse: dict[str, SparseLinear], model: nn.Module) -> None:
    """Copy the weights and buffers of `network` into the `model` that it was made from."""
    state = dict(network.state_dict())
    for name, layer in sparse.items():
        state[f"{name}.weight"] = layer.pattern.dense(state.pop(f"{name}.values"))
    model.load_state_dict(state)


def _candidates(model: nn.Module, masks: Masks) -> dict[str, Tensor]:
    """The masks of plain linear layers that are trained, and used at one place."""
    counts: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    found = {}
    for name, module in model.named_modules():
        weight = f"{name}.weight"
        if type(module) is nn.Linear and weight in masks and masks[weight].numel() >= SMALLEST:
            hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
            own = module.weight.requires_grad and not module.weight._post_accumulate_grad_hooks
            if name and own and not hooks and counts[id(module.weight)] == 1:
                found[name] = masks[weight]
    return found


def _sparse_is_faster(mask: Tensor, batch: int) -> bool:
    kept = int(mask.count_nonzero())
    quarters = round(4 * log2(kept / mask.numel())) if kept else 0
    if not kept or quarters > -2:  # above 70 % dense wins everywhere
        return not kept
    key = f"{tuple(mask.shape)} batch {batch} density 2^{quarters / 4} threads {torch.get_num_threads()} {_kernels()}"
    path = cache.folder() / "sparse-layers.json"
    known = _remembered(path)
    if key not in known:
        known = {**_remembered(path), key: _measured(mask.shape, batch, 2 ** (quarters / 4))}
        with suppress(OSError):  # it is only measured again
            write_json(path, known)
    return known[key]


def _kernels() -> str:
    module = native() if available() else None
    return f"torch {torch.__version__} {module.instruction_set() if module else 'csr'}"


def _remembered(path: Path) -> dict[str, bool]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): bool(value) for key, value in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _measured(shape: torch.Size, batch: int, density: float) -> bool:
    draw = torch.Generator().manual_seed(0)
    layer = nn.Linear(shape[1], shape[0])
    sparse = SparseLinear(layer, torch.rand(shape, generator=draw) < density)
    inputs = torch.rand(batch, shape[1], generator=draw, requires_grad=True)
    dense = _seconds(lambda: F.linear(inputs, layer.weight, layer.bias), layer.weight)
    return _seconds(lambda: sparse(inputs), sparse.values) < dense


def _seconds(forward: Callable[[], Tensor], weight: Tensor, times: int = 5) -> float:
    """The least seconds of a step: forward, backward, optimizer."""
    optimizer = torch.optim.Adam([weight], fused=True)
    least = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        forward().sum().backward()
        optimizer.step()
        least = min(least, time.perf_counter() - began)
    return least
