"""`save` and `load`: a supermask as a file. Over random weights it is a seed and a bit a weight, or less."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core.apply import apply
from prunus.core.errors import Invalid, nearest
from prunus.core.learned import learned_masks
from prunus.core.masks import Masks
from prunus.models.reference import reference_of
from prunus.supermasks.baking import bake
from prunus.supermasks.coded import CodedLayer
from prunus.supermasks.contents import TYPES, Artefact
from prunus.supermasks.engine import Supermask, supermask_of
from prunus.supermasks.rebuilding import alike, checksum, left_out, other_state, rebuilt, unwrapped
from prunus.supermasks.weights import drawn

__all__ = ["Artefact", "load", "save"]

Tensors = Mapping[str, Tensor]


@torch.no_grad()
def save(model: nn.Module, path: str | Path) -> None:
    """Write the supermask of `model` to a file: masks, and what else the network has that a seed does not give.

    The masks are entropy-coded, each within 64 bytes of n · H(kept / n) bits. Weights that `supermask` drew
    (`weights=`) are left out for their seed; a backbone's own weights are left out too, and `load` asks for them.
    Everything that is not masked (norm statistics, biases, a trained head) is in the file as it is, unless building
    the network anew gives it to the last bit. The model stays as it is.

    Args:
        model: it has a supermask.
        path: of the file, which is written complete or not at all; folders that are not there are made.

    Raises:
        Invalid: if the model has no supermask, its method trains the weights themselves, or the weights are no longer
            those that were drawn.
    """
    model = unwrapped(model)
    learned = supermask_of(model)
    layers = [CodedLayer.of(name, part) for name, part in learned.parts().items()]
    names = [layer.name for layer in layers]
    plain = deepcopy(model)
    bake(plain)
    found, dtype = _frozen(learned, plain)
    reference = reference_of(plain)
    if reference is not None and not alike(plain, rebuilt(reference, dtype, names)):
        reference = None  # it was changed since
    state = other_state(plain, names)
    known = [] if learned.origin is None else left_out(plain, state, reference, dtype, names)
    Artefact(
        method=_described(learned),
        reference=reference,
        origin=learned.origin,
        checksum=found,
        dtype=dtype,
        layers=layers,
        state={name: value for name, value in state.items() if name not in known},
        left_out=known,
        values=sum(layer.count for layer in layers) + sum(value.numel() for value in state.values()),
    ).write(path)


@torch.no_grad()
def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The network that was saved, bit for bit: plain, in evaluation mode, its masks held (see `prunus.masks_of`).

    Args:
        path: of a file that `save` wrote.
        model: where the network is not one of `prunus.models`, one of the same architecture; where the weights were
            not drawn from a seed, the backbone with its weights. It is changed in place. Default: it is built anew,
            on the CPU.

    Returns:
        `model`, or the new network.

    Raises:
        Invalid: if the file is cut short, altered or no supermask, or of another architecture or backbone, or needs a
            model and there is none. Nothing has been changed then.
    """
    artefact = Artefact.read(path)
    try:
        fresh = _fresh(artefact, model)
        target = _target(model, fresh)
        state = _state(artefact, target, fresh)
        weights = _weights(artefact, target)
        parts = {layer.name: layer.part() for layer in artefact.layers}
        apply(target, Masks({name: part.mask != 0 for name, part in parts.items()}))
    except Invalid as error:
        raise Invalid(f"{path}: {error}") from error
    for name, part in parts.items():
        target.get_parameter(name).copy_(part.values(weights[name]))
    target.load_state_dict(state, strict=False)
    return target.eval()


def _frozen(learned: Supermask, plain: nn.Module) -> tuple[str, str]:
    """The checksum and the type of the frozen weights, after a look at whether they are what they should be."""
    method, origin = learned.method, learned.origin
    if method.learns_weights:
        what = f"{type(method).__name__} trains the weights themselves"
        raise Invalid(f"{what}, which no seed gives: bake(model), and let a Ticket hold them")
    weights = {name: layer.weight for name, layer in learned.layers.items()}
    types = list(dict.fromkeys(_type(weight) for weight in weights.values()))
    if len(types) > 1 or types[0] not in TYPES:
        raise Invalid(f"the masked weights are of {', '.join(types)}; allowed: one type of {', '.join(TYPES)}")
    found = checksum(weights, weights)
    if origin is not None and checksum(dict(drawn(plain, origin, weights)), weights) != found:
        raise Invalid(f"the weights are no longer those that seed {origin.seed} draws; allowed: weights left as drawn")
    return found, types[0]


def _fresh(artefact: Artefact, model: nn.Module | None) -> nn.Module | None:
    """The network built anew, where the file says from what."""
    if artefact.origin is None:
        if model is None:
            raise Invalid("its weights are those of a backbone, not drawn from a seed: give it as model=")
        return None
    if artefact.reference is None:
        if model is None:
            raise Invalid("its network is not one of prunus.models: give one of that architecture as model=")
        return None
    return rebuilt(artefact.reference, artefact.dtype, [layer.name for layer in artefact.layers])


def _target(model: nn.Module | None, fresh: nn.Module | None) -> nn.Module:
    target = fresh if model is None else model
    if not isinstance(target, nn.Module):
        raise Invalid(f"model is of type {type(target).__name__}; allowed: a torch.nn.Module")
    if any(True for _ in learned_masks(target)):
        raise Invalid(f"this {type(target).__name__} has a supermask already: bake(model) makes it plain again")
    return target


def _state(artefact: Artefact, target: nn.Module, fresh: nn.Module | None) -> dict[str, Tensor]:
    """What the network is to hold beside its masked weights, which also says that it is the right network."""
    own = target.state_dict(keep_vars=True)
    masked = {layer.name: (layer.shape, artefact.dtype) for layer in artefact.layers}
    _check(own, masked)
    source = own if fresh is None else fresh.state_dict()
    _check_names(source, artefact.left_out)
    known = {name: source[name].detach() for name in artefact.left_out}
    if fresh is None:  # all that a seed alone settles are zero biases
        known = {name: torch.zeros_like(value) for name, value in known.items()}
    state = {**known, **artefact.state}
    state = {**{name: state[name] for name in own if name in state}, **state}  # in the model's order
    _check(own, {name: (tuple(value.shape), _type(value)) for name, value in state.items()})
    tied = {id(own[name]) for name in masked}
    for name, value in own.items():
        if name not in state and id(value) not in tied:
            raise Invalid(f"of another architecture: the file has no {name!r}; {nearest(name, [*masked, *state])}")
    return state


def _check(own: Mapping[str, Any], needed: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    for name, (shape, dtype) in needed.items():
        _check_names(own, [name])
        there = tuple(own[name].shape), _type(own[name])
        if there != (shape, dtype):
            both = f"{shape} of {dtype} in the file, {there[0]} of {there[1]} in the model"
            raise Invalid(f"of another architecture: {name} is {both}")


def _check_names(own: Mapping[str, Any], needed: Sequence[str]) -> None:
    for name in needed:
        if name not in own:
            raise Invalid(f"of another architecture: the model has no {name!r}; {nearest(name, own)}")


def _weights(artefact: Artefact, target: nn.Module) -> dict[str, Tensor]:
    origin, names = artefact.origin, [layer.name for layer in artefact.layers]
    if origin is not None:
        weights = dict(drawn(target, origin, names))
        cause = f"what seed {origin.seed} draws is not what the masks were made over"
    else:
        weights = {name: target.get_parameter(name).detach().cpu() for name in names}
        cause = "of another backbone"
    if checksum(weights, names) != artefact.checksum:
        raise Invalid(f"{cause} (the checksum of the weights differs)")
    return weights


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _described(learned: Supermask) -> dict[str, Any]:
    method = learned.method
    options = {f.name: getattr(method, f.name) for f in fields(method)} if is_dataclass(method) else {}
    return {"name": type(method).__name__, "options": options}
