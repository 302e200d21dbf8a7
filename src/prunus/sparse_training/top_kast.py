"""`TopKAST`: compute with the largest weights, train some more."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prunus.core.allocation import share
from prunus.core.errors import Invalid, check_density
from prunus.core.held import Bits
from prunus.core.masks import Masks
from prunus.sparse_training.beginning import counts_of, strongest, strongest_masks
from prunus.sparse_training.hooks import scaled
from prunus.sparse_training.layer import Change, SparseLayer, comparable, moments
from prunus.sparse_training.schedule import check_count, is_number
from prunus.sparse_training.shadow import Shadowed, change, integers


@dataclass(eq=False)
class TopKAST(Shadowed):
    """Compute with the set A of the largest weights of each layer, and train a larger set B ⊃ A.

    Jayakumar, Pascanu, Rae, Osindero and Elsen, "Top-KAST: top-K always sparse training", 2020, NeurIPS. The network
    computes with θ ⊙ A. The gradient, at these weights, trains those of B, so that weights of B − A, which the network
    does not have, may grow into A. Weights outside B stay exactly as they are, whatever the optimizer does. Every so
    many steps A and B are chosen anew, by |θ|: A has as many weights in each layer as `density` and `scope` gave it,
    B as many times more as `backward` is to `density`.

    So that a weight outside A has to be worth it, there is the penalty λ/2 · Σ cθ² on the weights of B, with c = 1 in
    A and c = 1 / (density of the layer) in B − A. Its gradient is added right before the step of the optimizer, after
    any clipping. It takes the place of weight decay, which if the optimizer has some acts on all of B too.

    The paper trains by SGD without momentum. Here what an optimizer remembers of a weight is cleared as it comes into
    B or leaves it. It reports masks of every step and of every 100 steps as equal; by default they are of every 100.
    The dense weights are held beside the sparse ones (see `Shadowed`); so far this saves no memory.

    Args:
        backward: the density of B, from that of A to 1. Default: twice that of A. The paper has 0.5 for 0.2, among
            others.
        penalty: λ, at least 0. Default: 1e-4, which is ours.
        every: steps from one choice of the sets to the next, to the end of training.

    The other arguments are those of `SparseTraining`. Masks in `start` are the first A, which then has as many weights
    as they have. With a pattern A has it, and B takes the largest others.

    Attributes:
        gradient_counts: how many weights of each layer are in B, by name.
    """

    name: ClassVar[str] = "top-kast"

    _: KW_ONLY
    backward: float | None = None
    penalty: float = 1e-4
    every: int = 100

    gradient_counts: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_count("every", self.every)
        if not is_number(self.penalty) or not 0 <= self.penalty < float("inf"):
            raise Invalid(f"penalty is {self.penalty!r}; allowed: a number of at least 0")
        super().__post_init__()

    def begin_with(self, weights: Mapping[str, nn.Parameter], axes: Mapping[str, int]) -> Masks:
        """The largest weights, or what `start` keeps."""
        if self.density is None or self.start is not None:
            masks = super().begin_with(weights, axes)
        else:
            counts = counts_of(weights, check_density(self.density), self.scope, self._pattern)
            masks = strongest_masks(
                weights, axes, counts, self._pattern, lambda _, w: comparable(w.detach().reshape(-1))
            )
        self.gradient_counts = self._shared(masks)
        return masks

    def begin(self) -> None:
        """Let the gradient of B through."""
        super().begin()
        for layer in self.layers.values():
            keep = layer.held.keep
            if keep.gradients is keep.weights:
                keep.gradients = Bits(self._wider(layer), layer.weight)

    def adjust(self, layer: SparseLayer) -> None:
        """Add the gradient of the penalty."""
        weight, gradient = layer.weight, layer.weight.grad
        if gradient is None or gradient.is_sparse or not self.penalty:
            return
        term = self.dense[layer.name].clone()
        layer.held.keep.gradients.clear(term)
        term.sub_(weight)  # the weights of A are those of the network: 0 is left of them
        term.mul_(layer.size / max(layer.kept, 1)).add_(weight)
        gradient.add_(scaled(self.optimizer, term), alpha=self.penalty)

    def take_over(self, layer: SparseLayer) -> None:
        """In B, what the optimizer has left; elsewhere θ stays."""
        dense, weight = integers(self.dense[layer.name]), integers(layer.weight.detach())
        moved = dense ^ weight
        layer.held.keep.gradients.clear(moved.view(layer.weight.dtype))
        dense.bitwise_xor_(moved)  # exact, and a fifth of the time of `torch.where` on a CPU

    def stepped(self) -> None:
        """Choose A and B anew where that is due."""
        if self.steps % self.every == 0:
            self._check_held()
            self.record(self.steps, 0.0, {name: self._choose(layer) for name, layer in self.layers.items()})

    def remove(self) -> None:
        """Take the hooks off the optimizer. The weights of A stay, and are all that is trained."""
        super().remove()
        for layer in self.layers.values():
            layer.held.keep.gradients = layer.held.keep.weights

    def own_state(self) -> dict[str, Any]:
        """B too."""
        wider = Masks._made({name: layer.held.keep.gradients.mask for name, layer in self.layers.items()})
        return {**super().own_state(), **{f"backward/{name}": packed for name, packed in wider.packed().items()}}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        super().load_own_state(state)
        for name, mask in self.masks_in(state, "backward").items():
            self.layers[name].held.keep.gradients.lay_out(mask, self.layers[name].weight)
            self.gradient_counts[name] = int(mask.sum())

    def _unpacked(self, state: Mapping[str, Any]) -> Masks:
        masks, wider = super()._unpacked(state), self.masks_in(state, "backward")
        for name, mask in masks.items():
            if (mask & ~wider[name].to(mask.device)).any():
                raise Invalid(f"the state has weights of {name} in the masks that are not in those of the gradient")
        return masks

    def _choose(self, layer: SparseLayer) -> Change:
        keep, before, trained = layer.held.keep, layer.mask, layer.held.keep.gradients.mask
        now = strongest(comparable(self.dense[layer.name].reshape(-1)), layer.kept, self.groups(layer))
        self.hold(layer, now.view(before.shape))
        keep.gradients.lay_out(self._wider(layer), layer.weight)
        self.show(layer)
        for tensor in moments(self.optimizer, layer.weight):
            tensor.masked_fill_(trained != keep.gradients.mask, 0)
        return change(before, layer.mask)

    def _wider(self, layer: SparseLayer) -> Tensor:
        """B: A, and the largest others."""
        scores = comparable(self.dense[layer.name].reshape(-1)).clamp_(max=torch.finfo(layer.weight.dtype).max)
        scores.index_fill_(0, layer.active, float("inf"))
        return strongest(scores, self.gradient_counts[layer.name], None).view(layer.weight.shape)

    def _shared(self, masks: Masks) -> dict[str, int]:
        """How many weights of each layer B has: a share in proportion to those of A."""
        density = masks.density
        backward = min(1.0, 2 * density) if self.backward is None else check_density(self.backward, "backward")
        if round(backward * masks.total) < masks.kept:
            raise Invalid(f"backward is {backward:g}; allowed: from the density, {density:.4g}, to 1")
        kept = {layer.name: layer.kept for layer in masks.layers}
        return share(kept, {name: mask.numel() for name, mask in masks.items()}, round(backward * masks.total))
