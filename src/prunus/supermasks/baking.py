"""`bake`: a plain network again, with what was found inside."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import remove_parametrizations

from prunus.core.errors import Invalid, nearest
from prunus.core.masks import Masks
from prunus.supermasks.engine import Supermask, supermask_of
from prunus.supermasks.layer import MaskedWeight, masked_weights
from prunus.supermasks.statistics import free_statistics


def bake(model: nn.Module, masks: Masks | None = None) -> Masks:
    """Make `model` a plain module again, with the masked weights inside, and give back the masks.

    Class, names of the state_dict and what was trained before are those from before `supermask`. `prunus.apply(model,
    masks)` then holds the masks while the weights are trained.

    Args:
        model: it has a supermask.
        masks: others than those learned, of the same weights, such as `prunus.GemMiner.flags(model)`. Default: those
            learned.

    Raises:
        Invalid: if the model has no supermask, as after `bake`, is a part of what has one, or the masks are of other
            weights. Nothing has been changed then.
    """
    learned = supermask_of(model)
    inside = masked_weights(model)
    for name in learned.layers.keys() - {layer.name for layer in inside.values()}:
        raise Invalid(f"this {type(model).__name__} is a part of what has the supermask, without {name}: bake it whole")
    found, values = _learned_values(learned) if masks is None else _given_values(learned, masks)
    trained = {name: learned.trained_before.get(plain) for name, plain in _plain_names(model, inside)}
    for module, attributes in _places(model):
        _detach(module, attributes)
    with torch.no_grad():
        for name, layer in learned.layers.items():
            layer.weight.copy_(values[name])
            layer.let_go()
    for name, parameter in model.named_parameters():
        if (before := trained.get(name)) is not None:
            parameter.requires_grad_(before)
    free_statistics(model)
    return found


def _plain_names(model: nn.Module, inside: Mapping[str, MaskedWeight]) -> Iterator[tuple[str, str]]:
    """The names that the parameters of `model` will have once it is plain, each with that in what `supermask` got.

    They differ where that was wrapped since, by DDP or `torch.compile`, or was a part of `model`.
    """
    here, layer = next(iter(inside.items()))
    prefix = here.removesuffix(layer.name) if here.endswith(layer.name) else ""
    for name, _ in model.named_parameters():
        plain = name.replace("parametrizations.", "").removesuffix(".original")
        yield plain, plain.removeprefix(prefix)


def _learned_values(learned: Supermask) -> tuple[Masks, dict[str, Tensor]]:
    parts = learned.parts()
    values = {name: part.values(learned.layers[name].weight.detach()) for name, part in parts.items()}
    return Masks._made({name: part.mask != 0 for name, part in parts.items()}), values


def _given_values(learned: Supermask, given: Mapping[str, Tensor]) -> tuple[Masks, dict[str, Tensor]]:
    if not isinstance(given, Mapping):
        raise Invalid(f"masks is of type {type(given).__name__}; allowed: Masks, or a mapping from name to tensor")
    masks, weights = Masks(given), {name: layer.weight.detach() for name, layer in learned.layers.items()}
    for name in sorted(masks.keys() ^ weights.keys()):
        where, other = ("masks", weights) if name in masks else ("the supermask", masks)
        raise Invalid(f"{name!r} is only in {where}; {nearest(name, other)}")
    for name, weight in weights.items():
        if masks[name].shape != weight.shape:
            raise Invalid(f"the mask of {name} has shape {tuple(masks[name].shape)}; allowed: {tuple(weight.shape)}")
    return masks, {n: torch.where(masks[n].to(weight.device), weight, 0) for n, weight in weights.items()}


def _places(model: nn.Module) -> list[tuple[nn.Module, list[str]]]:
    """The modules that hold masked weights, with the names of these."""
    found = []
    for module in model.modules():
        chains = getattr(module, "parametrizations", {})
        ours = [name for name, chain in chains.items() if any(isinstance(part, MaskedWeight) for part in chain)]
        found += [(module, ours)] * bool(ours)
    return found


def _detach(module: nn.Module, attributes: list[str]) -> None:
    """Take the parametrizations away. torch's own way changes the class, which copies of the module share."""
    chains = module.parametrizations
    assert isinstance(chains, nn.ModuleDict)
    if set(attributes) != set(chains) or any(len(chains[name]) > 1 for name in attributes):  # type: ignore[arg-type]
        for name in attributes:
            remove_parametrizations(module, name, leave_parametrized=False)
        return
    originals = {name: chains[name].original for name in attributes}
    rank = {name: i for i, name in enumerate(chains[attributes[0]].order)}  # type: ignore[arg-type]
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, original in originals.items():
        module.register_parameter(name, original)  # type: ignore[arg-type]
    module._parameters = dict(sorted(module._parameters.items(), key=lambda item: rank.get(item[0], len(rank))))
