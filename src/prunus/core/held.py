"""`Held`: one parameter and the mask it is held under, with the hooks that see to it.

The mask is on what `apply` holds, and in nothing that a model computes: a hook on the parameter zeroes masked
gradients, one hook common to all optimizers zeroes masked weights after each step, and one on the module those that
`load_state_dict` writes. Sparse training changes the mask of a `Held` in place, and says which gradients get through.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from prunus.core.ranked import positions_in
from prunus.kernels import native

#: Where a module keeps its `Slots`: a plain attribute, carried by deepcopy and pickle and not seen by state_dict.
_SLOTS = "_prunus_slots"

#: The integer type that is as wide as a weight of so many bytes.
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Bits:
    """A mask as integers as wide as the weights: all bits set where a weight is kept, none where it is dropped.

    Weights are masked by a bitwise "and". It is exact: a kept weight keeps every bit, a dropped one becomes +0
    even where it is NaN or infinite (a product would give NaN). On one CPU thread it takes as long as a product
    with a float mask; `masked_fill_` and `torch.where` take over ten times as long (benchmarks/masked_step.py).
    The price is memory: as many bytes as the weights have.
    """

    def __init__(self, mask: Tensor, parameter: Tensor) -> None:
        self.lay_out(mask, parameter)

    @property
    def mask(self) -> Tensor:
        """A bool tensor of the parameter's shape."""
        return self._bits != 0

    def lay_out(self, mask: Tensor, parameter: Tensor) -> None:
        """Take `mask` (its shape is the parameter's), in the parameter's memory format."""
        device = mask.device if parameter.is_meta else parameter.device
        like = torch.empty_like(parameter, dtype=_INTEGERS[parameter.element_size()], device=device)
        self._stride = parameter.stride()
        self._bits = like.copy_(mask).neg_()  # −1 has all bits set

    def put(self, positions: Tensor, kept: bool) -> None:
        """Keep, or drop, the weights at row-major positions, int64 on the weights' device."""
        bits = self._bits = self._bits.to(positions.device)
        bits.put_(positions, torch.full_like(positions, -int(kept), dtype=bits.dtype))

    def kept(self) -> Tensor:
        """The row-major positions of the kept weights, ascending, int64."""
        bits = self._bits
        if bits.is_cpu and bits.dtype == torch.int32 and bits.is_contiguous() and (module := native()):
            return torch.from_numpy(module.positions_of_bits(bits.view(torch.float32).numpy()))
        return positions_in(self.mask)

    def clear(self, tensor: Tensor) -> None:
        """Zero what is masked of a tensor of the parameter's shape, in place."""
        bits = self._for(tensor)
        tensor.view(bits.dtype).bitwise_and_(bits)

    def clear_rows(self, values: Tensor, rows: tuple[Tensor, ...]) -> None:
        """The same for the values of a sparse gradient."""
        bits = self._for(values)[rows]
        values.view(bits.dtype).bitwise_and_(bits)

    def follow(self, parameter: Tensor) -> None:
        """Lie as the parameter does: for speed, such as after `to(memory_format=torch.channels_last)`."""
        if parameter.stride() != self._stride:
            self.lay_out(self.mask, parameter)

    def _for(self, tensor: Tensor) -> Tensor:
        # The model may have moved to another device or dtype since; −1 has all bits set at every width.
        bits, size = self._bits, tensor.element_size()
        if bits.element_size() != size or bits.device != tensor.device:
            bits = self._bits = bits.to(tensor.device, _INTEGERS[size])
        return bits


class Keep:
    """The hook of a parameter: zeroes its masked gradient as soon as it has been accumulated.

    Attributes:
        weights: the mask.
        gradients: the mask of what gets through of the gradient: that of the weights unless a method trains others too.
        dense: whether all of it gets through, for a method that is to look at it.
        met: whether there has been a gradient.
    """

    def __init__(self, mask: Tensor, parameter: Tensor) -> None:
        self.weights = self.gradients = Bits(mask, parameter)
        self.dense = self.met = False

    def __call__(self, parameter: Tensor) -> None:
        """Zero the masked gradient of `parameter`: its post-accumulate-grad hook."""
        self.met = True
        if not self.dense:
            self.clear_gradient(parameter)

    def clear_gradient(self, parameter: Tensor) -> None:
        """Zero the masked gradient of `parameter`, if it has one."""
        gradient = parameter.grad
        if gradient is None:
            return
        if gradient.requires_grad:  # create_graph=True: what was computed must not be written to
            parameter.grad = torch.where(self.gradients.mask.to(gradient.device), gradient, 0)
        elif gradient.is_sparse:
            self.gradients.clear_rows(gradient._values(), tuple(gradient._indices()))
        else:
            self.gradients.clear(gradient)

    def project(self, parameter: Tensor) -> None:
        """Zero the masked weights of `parameter` (call it under `no_grad`)."""
        if parameter.is_meta:  # no weights yet; the mask must not become a meta tensor with it
            return
        self.weights.follow(parameter)
        self.weights.clear(parameter)


class Held:
    """A parameter and its mask, held from construction on. Copies and unpickled ones hold their own parameter.

    The parameter's hook refers to `keep` and not to this object, which would be a reference cycle: a model that is
    dropped is freed at once.

    Attributes:
        parameter: the parameter.
        origin: the `apply` that it comes from.
        keep: its mask, and the hook.
        moving: whether a method changes the mask as it trains. What `load_state_dict` then writes outside it is noted
            in `zeroed`, since the mask that belongs to it may come later.
        zeroed: row-major positions and values of what was noted; None where there is nothing.
    """

    def __init__(self, parameter: nn.Parameter, mask: Tensor, origin: object) -> None:
        self.parameter = parameter
        self.origin = origin
        self.keep = Keep(mask, parameter)
        self.moving = False
        self.zeroed: tuple[Tensor, Tensor] | None = None
        self.handle = _on_gradient(parameter, self.keep)
        every[id(parameter)] = self
        _watch_optimizers()
        self.zero()

    def zero(self) -> None:
        """Zero the masked weights, and their gradients if there are any."""
        with torch.no_grad():
            self.keep.project(self.parameter)
        self.keep.clear_gradient(self.parameter)

    @torch.no_grad()
    def zero_loaded(self) -> None:
        """Zero the masked weights that were loaded."""
        if self.moving and not self.parameter.is_meta:
            outside = self.parameter.detach().masked_fill(self.keep.weights.mask.to(self.parameter.device), 0)
            positions = outside.reshape(-1).nonzero().squeeze(1)
            self.zeroed = positions, outside.take(positions)
        self.zero()

    def change(self, mask: Tensor) -> None:
        """Hold the parameter under another mask: a bool tensor of its shape."""
        self.keep.weights.lay_out(mask, self.parameter)
        self.zero()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Held":
        return Held(deepcopy(self.parameter, memo), self.keep.weights.mask, deepcopy(self.origin, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return Held, (self.parameter, self.keep.weights.mask, self.origin)


#: Every held parameter by its id, which stays its own because the `Held` keeps it alive. The parameter itself
#: carries no attribute, so a pickled parameter knows nothing of Prunus.
every: WeakValueDictionary[int, Held] = WeakValueDictionary()


@dataclass
class Slots:
    """What a module holds: its masked parameters by attribute name, and its hook after `load_state_dict`."""

    handle: RemovableHandle
    held: dict[str, Held] = field(default_factory=dict)


def slots_of(module: nn.Module) -> Slots:
    """The slots of a module, made where there are none."""
    if _SLOTS not in vars(module):
        setattr(module, _SLOTS, Slots(module.register_load_state_dict_post_hook(_after_load)))
    return vars(module)[_SLOTS]


def held_in(module: nn.Module) -> dict[str, Held]:
    """What a module itself holds, by attribute name."""
    return vars(module)[_SLOTS].held if _SLOTS in vars(module) else {}


def hold(parameter: nn.Parameter, mask: Tensor, origin: object) -> Held:
    """Hold a parameter under a mask."""
    held = every.get(id(parameter))
    if held is None:
        return Held(parameter, mask, origin)
    # Held already through a module outside the model (a tied weight): both modules get the new mask.
    held.origin = origin
    held.change(mask)
    return held


def let_go(module: nn.Module, attribute: str) -> None:
    """Take the mask of one of a module's parameters away."""
    slots = slots_of(module)
    held = slots.held.pop(attribute)
    held.handle.remove()
    every.pop(id(held.parameter), None)
    if not slots.held:
        slots.handle.remove()
        delattr(module, _SLOTS)


def _on_gradient(parameter: nn.Parameter, hook: Keep) -> RemovableHandle:
    # A frozen parameter takes no hook, but one that it has stays with it while it is frozen.
    trained = parameter.requires_grad
    try:
        return parameter.requires_grad_(True).register_post_accumulate_grad_hook(hook)
    finally:
        parameter.requires_grad_(trained)


def _after_load(module: nn.Module, _incompatible: object) -> None:
    """Mask what `load_state_dict` wrote. With `assign=True` there are new parameters, tied ones no longer tied."""
    held = held_in(module)
    for attribute, before in list(held.items()):
        parameter = module._parameters.get(attribute)
        if parameter is not None and parameter is not before.parameter:
            held[attribute] = hold(parameter, before.keep.weights.mask, before.origin)
        held[attribute].zero_loaded()


@torch.no_grad()
def _after_step(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            held = every.get(id(parameter))
            if held is not None:
                held.keep.project(parameter)


_watching: list[RemovableHandle] = []


def _watch_optimizers() -> None:
    if not _watching:  # a program that never masks anything pays nothing
        _watching.append(register_optimizer_step_post_hook(_after_step))
