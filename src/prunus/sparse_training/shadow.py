"""`Shadowed`: what methods share that train dense weights, while the network computes with sparse ones made of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS
from torch.utils.hooks import RemovableHandle

from prunus.core.errors import Invalid
from prunus.core.held import every
from prunus.core.masks import Masks
from prunus.sparse_training.base import SparseTraining
from prunus.sparse_training.hooks import after_steps
from prunus.sparse_training.layer import Change, SparseLayer


@dataclass(eq=False)
class Shadowed(SparseTraining):
    """A network that computes with sparse weights made of dense ones θ, which are what is trained.

    The model's parameters hold the sparse weights, but for the time of a step of the optimizer: right before it the
    dense ones are written into them, and right after it the sparse ones again. So the model, its state_dict and its
    copies are sparse whenever one looks, and its forward pass is the plain one. The price is memory: one more set of
    weights.

    Weights that are written between steps, by a constraint or `load_state_dict`, are taken for the sparse ones, and
    the dense ones are made to fit them. Processes of a distributed training must begin with the same weights: wrap the
    model by DDP first.

    Attributes:
        dense: θ of each layer, by name.
    """

    dense: dict[str, Tensor] = field(init=False, repr=False)

    _after: RemovableHandle | None = field(init=False, repr=False, default=None)
    _inside: bool = field(init=False, repr=False, default=False)  # whether the parameters hold θ
    _seen: dict[str, int] = field(init=False, repr=False, default_factory=dict)  # versions of the sparse weights

    def __post_init__(self) -> None:
        super().__post_init__()
        self._after = after_steps(self.optimizer, self._leave)

    # What a method says otherwise.

    def begin_with(self, weights: Mapping[str, nn.Parameter], axes: Mapping[str, int]) -> Masks:
        """The masks to begin with."""
        return super().first_masks(weights, axes)

    def adjust(self, layer: SparseLayer) -> None:
        """Called for each layer right before a step of the optimizer, to change gradients."""

    def shown(self, layer: SparseLayer) -> Tensor:
        """What the network has in the place of θ where the mask keeps a weight; elsewhere it does not matter."""
        return self.dense[layer.name]

    def hidden(self, layer: SparseLayer, shown: Tensor) -> Tensor:  # noqa: ARG002
        """The inverse: θ of weights that the network has."""
        return shown

    def take_over(self, layer: SparseLayer) -> None:
        """Make what the optimizer has left in the parameter the new θ."""
        self.dense[layer.name].copy_(layer.weight)

    # What they share.

    def first_masks(self, weights: Mapping[str, nn.Parameter], axes: Mapping[str, int]) -> Masks:
        """Those of the method; θ begins with the weights that the model has."""
        masks = self.begin_with(weights, axes)
        self.dense = {name: weight.detach().clone() for name, weight in weights.items()}
        return masks

    @torch.no_grad()
    def begin(self) -> None:
        """Write the sparse weights."""
        for layer in self.layers.values():
            self.show(layer)

    def forget(self) -> None:
        """Nothing: moments of weights that are not there are those of θ."""

    def gradients_ready(self) -> None:
        """Have the optimizer find θ."""
        if self._inside:  # an optimizer's step that calls the one it inherits comes here twice
            return
        if any(every.get(id(layer.weight)) is not layer.held for layer in self.layers.values()):
            self._check_held()
        for layer in self.layers.values():
            self._take_written(layer)
            self.adjust(layer)
        for layer in self.layers.values():
            layer.weight.copy_(self.dense[layer.name])
        self._inside = True

    def step(self) -> None:
        """To be called after each `optimizer.step()`."""
        super().step()
        self._seen = {name: layer.weight._version for name, layer in self.layers.items()}

    def remove(self) -> None:
        """Take the hooks off the optimizer. The sparse weights stay, and so do the masks."""
        super().remove()
        if self._after:
            self._after.remove()

    def own_state(self) -> dict[str, Any]:
        """θ of each layer."""
        return {f"dense/{name}": dense.clone() for name, dense in self.dense.items()}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        for name, dense in self.dense.items():
            dense.copy_(state[f"dense/{name}"])

    def show(self, layer: SparseLayer) -> None:
        """Write the sparse weights of a layer."""
        layer.weight.copy_(self.shown(layer))
        layer.held.keep.project(layer.weight)

    def hold(self, layer: SparseLayer, mask: Tensor) -> None:
        """Hold a layer, and copies of it, under another mask."""
        layer.held.keep.weights.lay_out(mask, layer.weight)
        for copy in layer.copies:
            copy.change(mask)

    def masks_in(self, state: Mapping[str, Any], kind: str) -> Masks:
        """The packed masks that a state has of each layer beside those of the weights.

        Raises:
            Invalid: if one is missing, or has not the bytes of its shape.
        """
        packed: dict[str, Tensor] = {}
        for name in self.layers:
            if not isinstance(mask := state.get(f"{kind}/{name}"), Tensor):
                raise Invalid(f"the state has no {kind}/{name}")
            packed[name] = mask
        return Masks.unpacked(packed, {name: tuple(layer.weight.shape) for name, layer in self.layers.items()})

    def _check(self) -> None:
        super()._check()
        if isinstance(self.optimizer, LBFGS):
            raise Invalid(f"optimizer is LBFGS; allowed with {type(self).__name__}: one that takes one gradient a step")

    def _unpacked(self, state: Mapping[str, Any]) -> Masks:
        masks = super()._unpacked(state)
        for name, dense in self.dense.items():
            saved = state.get(f"dense/{name}")
            if not isinstance(saved, Tensor) or saved.shape != dense.shape:
                raise Invalid(f"the state has no dense weights of {name} of shape {tuple(dense.shape)}")
        return masks

    @torch.no_grad()
    def _leave(self) -> None:
        """Take θ from the optimizer, and write the sparse weights."""
        if not self._inside:  # a step that was skipped
            return
        self._inside = False
        for layer in self.layers.values():
            self.take_over(layer)
            self.show(layer)

    def _take_written(self, layer: SparseLayer) -> None:
        """Make θ fit weights that were written since the last step, if any were."""
        weight, dense = layer.weight, self.dense[layer.name]
        if (dense.device, dense.dtype) != (weight.device, weight.dtype):
            self.dense[layer.name] = dense = dense.to(weight)
        if weight._version == self._seen.get(layer.name):
            return
        written = (weight != self.shown(layer)) & layer.mask.to(weight.device)
        if written.any():
            dense.copy_(torch.where(written, self.hidden(layer, weight), dense))
        if layer.held.zeroed:  # what was loaded outside the mask
            dense.put_(*layer.held.zeroed)


def change(before: Tensor, now: Tensor) -> Change:
    """What became of a mask, and of all before it."""
    dropped, grown = before & ~now, now & ~before
    return Change(*(each.reshape(-1).nonzero().squeeze(1) for each in (dropped, grown)))


def integers(tensor: Tensor) -> Tensor:
    """A view of the tensor's bits as integers."""
    return tensor.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])
