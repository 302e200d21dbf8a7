"""`MaskedWeight`: the parametrization of one weight, and the hook that keeps it up to date.

A mask is made anew when the scores have changed, not in each forward pass: one hook, common to all optimizers, sees
to it after each step that wrote to scores. Whatever else writes to them (a loaded state_dict, a hand) is noticed in
the next forward pass by the tensors' version counters. Evaluation and accumulated batches thus cost nothing.
"""

from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakSet, WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from prunus.core.learned import LearnedMask, learned_masks
from prunus.supermasks.part import Part


class Whole(Protocol):
    """What a layer knows of the supermask that it belongs to."""

    method: Any
    layers: dict[str, "MaskedWeight"]
    step_count: int
    counted_at: int | None

    def refresh(self, layers: "Sequence[MaskedWeight] | None" = None) -> None:
        """Make the masks of layers anew, by default all of them."""

    def step(self) -> None:
        """Count a step."""

    def refresh_if_stale(self, layer: "MaskedWeight") -> None:
        """Make the mask of a layer anew if something was written to."""

    def masks(self) -> dict[str, Tensor]:
        """All masks now."""
        ...


class MaskedWeight(LearnedMask):
    """The parametrization of one weight: from the weight to what stands in its place.

    Attributes:
        name: of the weight in the plain model.
        supermask: which it belongs to.
        scores: what is learned; None where the weights are themselves.
        keep: how many weights are kept, where the method has a target.
        flags: the weights that may still be kept, where the method takes some out for good.
    """

    scores: nn.Parameter | None
    flags: Tensor

    def __init__(self, name: str, supermask: Whole, scores: Tensor | None) -> None:
        super().__init__()
        self.name, self.supermask = name, supermask
        self.register_parameter("scores", None if scores is None else nn.Parameter(scores))
        self.keep = 0
        # what stands in place of the weight, and the mask where gradients need it; no buffers, so never saved
        self.effective: Tensor | None = None
        self.held: Tensor | None = None
        self._home: tuple[ParametrizationList, ...] = ()  # in a tuple, which makes it no child
        self._seen: tuple[int, ...] = ()
        self.register_load_state_dict_post_hook(_after_load)

    @property
    def weight(self) -> Tensor:
        """The weight that the mask acts on."""
        # not by attribute, which a module looks up in several places: this is read many times a step
        return self._home[0]._parameters["original"]  # type: ignore[return-value]

    @property
    def learned(self) -> Tensor:
        """What the optimizer is given: the scores, or the weights themselves."""
        scores = self._parameters["scores"]
        return self.weight if scores is None else scores

    def live_in(self, home: ParametrizationList) -> None:
        """Say where the weight is."""
        self._home = (home,)
        self.watch()

    def watch(self) -> None:
        """Have the mask made anew after each step of an optimizer that has the scores."""
        for tensor in {id(t): t for t in (self.weight, self.learned)}.values():
            _every[id(tensor)] = self
        if not _watching:  # a program without supermasks pays nothing
            _watching.append(register_optimizer_step_post_hook(_after_step))

    def let_go(self) -> None:
        """The mask is no longer made anew after steps."""
        _copies.discard(self)
        for tensor in (self.weight, self.learned):
            if _every.get(id(tensor)) is self:
                del _every[id(tensor)]

    @property
    def stale(self) -> bool:
        """Whether scores or weights were written to, or steps counted otherwise, since the mask was made."""
        return self.effective is None or self._seen != self._versions()

    def place(self) -> Tensor:
        """A tensor to write what stands in place of the weight into; from now on it is held to be up to date."""
        weight, there = self.weight, self.effective
        if (
            there is None
            or (there.shape, there.dtype, there.device) != (weight.shape, weight.dtype, weight.device)
            or there.stride() != weight.stride()
        ):
            there = self.effective = torch.empty_like(weight, requires_grad=False)
        seen = self._versions()
        if self._seen[:2] != seen[:2]:
            self.watch()  # there are new parameters
        self._seen = seen
        return there

    def forward(self, weight: Tensor) -> Tensor:
        """What stands in place of `weight`."""
        return self.supermask.method.forward(self, weight)

    def mask(self) -> Tensor:
        """The mask now, as a bool tensor."""
        group = self._group()
        return self.supermask.method.masks(group)[group.index(self)]

    @torch.no_grad()
    def part(self) -> Part:
        """The mask now, and how the values under it come from the weight."""
        group = self._group()
        return self.supermask.method.parts(group)[group.index(self)]

    def together(self) -> dict[LearnedMask, Tensor]:
        """The masks of all layers."""
        return dict(zip(self.supermask.layers.values(), self.supermask.masks().values(), strict=True))

    def get_extra_state(self) -> Tensor:
        """How many steps were taken, so that a schedule goes on where a saved state stood."""
        return torch.tensor(self.supermask.step_count)

    def set_extra_state(self, state: Tensor) -> None:
        """The inverse."""
        self.supermask.step_count = int(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _copies.add(self)  # its parameters may not be there yet

    def _apply(self, fn: Any, recurse: bool = True) -> "MaskedWeight":
        super()._apply(fn, recurse)
        with torch.no_grad():
            self.effective, self.held = (t if t is None else fn(t) for t in (self.effective, self.held))
        self._seen = ()  # scores of another type may rank otherwise, and their version says nothing of it
        return self

    def _group(self) -> list["MaskedWeight"]:
        return list(self.supermask.layers.values()) if self.supermask.method.joint else [self]

    def _versions(self) -> tuple[int, ...]:
        weight, learned = self.weight, self.learned
        return id(weight), id(learned), weight._version, learned._version, self.supermask.step_count


def masked_weights(model: nn.Module) -> dict[str, MaskedWeight]:
    """The masked weights of `model` by the names that they have in the plain model."""
    return {name: layer for name, layer in learned_masks(model) if isinstance(layer, MaskedWeight)}


#: Every layer by the ids of the tensors that it is made from.
_every: WeakValueDictionary[int, MaskedWeight] = WeakValueDictionary()
_watching: list[RemovableHandle] = []
#: Layers that were copied and are not watched yet.
_copies: WeakSet[MaskedWeight] = WeakSet()


def _after_load(layer: nn.Module, _incompatible: object) -> None:
    assert isinstance(layer, MaskedWeight)
    layer.watch()  # with assign=True there are new parameters
    if layer.supermask.method.joint:
        layer.supermask.refresh()
    else:
        layer.supermask.refresh([layer])


@torch.no_grad()
def _after_step(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
    skipped = getattr(optimizer, "found_inf", None)
    if skipped is not None and bool(skipped):  # a GradScaler has a fused optimizer skip steps by itself
        return
    while _copies:
        _copies.pop().watch()
    written: dict[int, tuple[Whole, set[int]]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            layer = _every.get(id(parameter))
            if layer is not None and (parameter is layer.learned or parameter is layer.weight):
                supermask = layer.supermask
                written.setdefault(id(supermask), (supermask, set()))[1].add(id(parameter))
    for supermask, parameters in written.values():
        first = next(iter(supermask.layers.values()))
        if id(first.learned) in parameters:  # of several optimizers one counts
            supermask.step()
        else:
            supermask.refresh()
