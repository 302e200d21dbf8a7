"""What a network holds, and what of it a file need not: the things that building it anew gives to the last bit."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from hashlib import sha256

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from prunus.core.errors import Invalid
from prunus.models import build_from
from prunus.models.reference import Reference
from prunus.supermasks.weights import zero_biases

Tensors = Mapping[str, Tensor]


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of DDP and `torch.compile`, whose names are the plain ones."""
    while True:
        inner = model.module if isinstance(model, DistributedDataParallel) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def rebuilt(reference: Reference, dtype: str, masked: Iterable[str], seed: int = 0) -> nn.Module:
    """The network of `reference` as it is before its masked weights are drawn: biases of their layers are zero."""
    model = build_from(reference, seed).to(getattr(torch, dtype))
    _zero_biases(model, masked)
    return model


def alike(model: nn.Module, other: nn.Module) -> bool:
    """Whether two models have the same modules with the same options, and a state of the same form."""
    forms = [[(n, v.shape, v.dtype) for n, v in m.state_dict().items()] for m in (model, other)]
    return forms[0] == forms[1] and repr(model) == repr(other)


def other_state(model: nn.Module, masked: Iterable[str]) -> dict[str, Tensor]:
    """What `model` holds beside its masked weights, on the CPU; also without what is tied to those.

    Raises:
        Invalid: if it holds something that is no tensor.
    """
    every = model.state_dict(keep_vars=True)
    for name, value in every.items():
        if not isinstance(value, Tensor):
            raise Invalid(f"{name} of the state is of type {type(value).__name__}; a file holds tensors only")
    left = {id(every[name]) for name in masked}
    return {name: value.detach().cpu() for name, value in every.items() if id(value) not in left}


def left_out(
    plain: nn.Module, state: Tensors, reference: Reference | None, dtype: str, masked: Iterable[str]
) -> list[str]:
    """The names in `state` whose values can be known without a file.

    Those are what two networks have in common that were built from `reference` with other weights each. Without a
    reference nothing is known but that drawing a weight makes biases zero.
    """
    masked = list(masked)
    if reference is not None:
        pair = [rebuilt(reference, dtype, masked, seed) for seed in (0, 1)]
    else:
        pair = [_filled(plain, value, masked) for value in (0, 1)]
    one, other = (model.state_dict() for model in pair)
    return [n for n, v in state.items() if same_bits(one[n], other[n]) and same_bits(one[n], v)]


def checksum(weights: Tensors, names: Iterable[str]) -> str:
    """SHA-256 over weights in this order, as float32 (float64 as it is), row-major and little-endian."""
    digest = sha256()
    for name in names:
        weight = weights[name].detach().cpu()
        values = weight.to(torch.promote_types(weight.dtype, torch.float32)).contiguous().numpy()
        digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are of one type and shape and have the same bits: −0 is not 0."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_raw(a), _raw(b))


def _filled(plain: nn.Module, value: int, masked: Iterable[str]) -> nn.Module:
    copy = deepcopy(plain)
    for tensor in copy.state_dict().values():
        tensor.fill_(value)
    _zero_biases(copy, masked)
    return copy


def _zero_biases(model: nn.Module, masked: Iterable[str]) -> None:
    every = dict(model.named_parameters())
    for name in masked:
        if name in every:
            zero_biases(model, every[name])


def _raw(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
