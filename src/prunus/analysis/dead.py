"""Which output units are dead under masks: those without incoming weights, and those that feed none."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunus.analysis.inputs import example_of
from prunus.analysis.products import Product, Watch
from prunus.analysis.units import units_of
from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.core.probing import Batch, Probe, untouched


class Form:
    """Which sides of a weight are its output units and its inputs; those of a linear layer where it is not known.

    Args:
        kind: see `prunus.analysis.products.Kind`.
        groups: of a convolution.
    """

    def __init__(self, kind: str = "other", groups: int = 1) -> None:
        self.known = kind != "other"
        self._kind, self._groups = kind, groups

    def outputs(self, mask: Tensor) -> Tensor:
        """Whether each output unit has a weight, as bool of shape (units,)."""
        if self._kind == "transposed":
            return self._in_groups(mask)
        return mask.any(0) if self._kind == "matrix" else _rows(mask)

    def inputs(self, mask: Tensor) -> Tensor:
        """Whether each input has a weight, as bool of shape (inputs,)."""
        if self._kind == "conv":
            return self._in_groups(mask)
        return mask.any(0) if self._kind == "linear" else _rows(mask)

    def _in_groups(self, mask: Tensor) -> Tensor:
        # (rows, columns of a group, …): the columns of each group are different units
        return mask.unflatten(0, (self._groups, -1)).flatten(3).any(3).any(1).flatten()


def _rows(mask: Tensor) -> Tensor:
    return torch.atleast_1d(mask).unsqueeze(-1).flatten(1).any(1)


class Units:
    """The output units of each layer, and what they feed.

    Nothing of the model is held, only numbers of units.

    Args:
        masks: of the layers.
        model: see `prunus.analysis.Exploration`. Default: none, and units are the rows of a weight.
        inputs: as for `prunus.analysis.effective`.

    Raises:
        Invalid: if no example is found, or the model does not take it.
    """

    def __init__(self, masks: Masks, model: nn.Module | None = None, inputs: Any = None) -> None:
        self._forms: dict[str, Form] = {}
        self._makers: list[tuple[str, Tensor]] = []
        self._takers: list[tuple[str, Tensor]] = []
        self._count = 0
        if model is not None:
            self._follow(model, masks, example_of(model, inputs))

    def without_incoming(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The units of each layer that no kept weight leads to, as bool of shape (units,)."""
        return {name: ~self._form(name).outputs(mask) for name, mask in masks.items()}

    def without_outgoing(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The units that feed no kept weight, for each layer of which it is known what it feeds."""
        fed: dict[torch.device, Tensor] = {}
        for device in {masks[name].device for name, _ in self._makers}:
            fed[device] = self._fed(masks, device)
        found: dict[str, Tensor] = {}
        for name, labels in self._makers:  # one layer several times where it is used several times
            idle = ~fed[masks[name].device][labels.to(masks[name].device)]
            found[name] = found[name] & idle if name in found else idle
        return found

    def _fed(self, masks: Mapping[str, Tensor], device: torch.device) -> Tensor:
        fed = torch.zeros(self._count + 1, dtype=torch.bool, device=device)
        for name, labels in self._takers:
            taken = self._form(name).inputs(masks[name]) if name in masks else torch.ones_like(labels, dtype=torch.bool)
            fed[labels.to(device)[taken.to(device)]] = True
        return fed

    def _form(self, name: str) -> Form:
        return self._forms.get(name) or Form()

    def _follow(self, model: nn.Module, masks: Masks, example: Batch) -> None:
        given = _given_names(model, masks)
        self._forms = {given[name]: form for name, form in _forms(model, list(given), example).items()}
        units = units_of(model, list(given), example)
        makers = [(given[side.name], side.labels) for side in units.makers]
        takers = [(given[side.name], side.labels) for side in units.takers]
        unclear = {label for name, labels in takers if not self._form(name).known for label in labels.tolist()} - {0}
        left_out = {given[name] for name in units.left_out}
        left_out |= {n for n, ls in makers if not self._form(n).known or unclear.intersection(ls.tolist())}
        self._count = units.count
        self._takers = [(name, labels) for name, labels in takers if self._form(name).known]
        self._makers = [(name, labels) for name, labels in makers if name in masks and name not in left_out]


def _given_names(model: nn.Module, masks: Masks) -> dict[str, str]:
    """By the first name of each prunable or masked parameter, the name that the masks have for it."""
    every = model.named_parameters(remove_duplicate=False)
    masked = {id(parameter): name for name, parameter in every if name in masks}
    free = prunable(model)
    return {n: masked.get(id(p), n) for n, p in model.named_parameters() if n in free or id(p) in masked}


def _forms(model: nn.Module, names: list[str], example: Batch) -> dict[str, Form]:
    values = {n: p.detach().float() for n, p in model.named_parameters() if p.is_floating_point()}
    watch = _Forms({name: values[name] for name in names})
    with untouched(model), torch.no_grad(), watch:
        Probe(model, values, torch.float32)(example.mapped(lambda t: t[:1]))
    return {name: Form(*found.pop()) for name, found in watch.seen.items() if len(found) == 1}


class _Forms(Watch):
    """Notes in which forms each weight is multiplied."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self.seen: dict[str, set[tuple[str, int]]] = {name: set() for name in weights}

    def multiplied(self, products: list[tuple[str, Product]], output: Any) -> Any:
        for name, product in products:
            as_it_is = _layout(product.weight) == _layout(self._weights[name])
            self.seen[name].add((product.kind, product.groups) if as_it_is else ("other", 1))
        return output


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride()
