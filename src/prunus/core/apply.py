"""Holding masks through training: `apply` them, ask for them with `masks_of`, let them go with `release`.

A masked weight is zero from `apply` on, and before and after every step of any `torch.optim.Optimizer`. Two things
see to it, and neither is in the forward pass, the module's class or its state_dict:

- a hook on the parameter zeroes the masked gradient as soon as `backward` has accumulated it, so that clipping,
  gradient norms, DDP's reduction and the optimizer's moments never see it;
- one hook, common to all optimizers, zeroes the masked weights after each step, whatever the step did: momentum
  from before the mask, weight decay of any kind, noise.

Not covered: weights written by hand between steps (they are zeroed at the next step), gradients taken with
`torch.autograd.grad`, optimizers that are not a `torch.optim.Optimizer` (the gradient is zero even so), sharded
parameters (FSDP, tensor parallelism: `apply` refuses them; shard no masked model), and weights replaced by hand
(`layer.weight = nn.Parameter(…)`: `masks_of` then says so).
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from prunus.core.errors import Invalid, nearest
from prunus.core.learned import masks_learned
from prunus.core.masks import Masks
from prunus.core.params import owners

#: Where a module keeps its `_Slots`: a plain attribute, carried by deepcopy and pickle and not seen by state_dict.
_SLOTS = "_prunus_slots"

#: The integer type that is as wide as a weight of so many bytes.
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def apply(model: nn.Module, masks: Masks | Mapping[str, Tensor]) -> "Handle":
    """Zero the masked weights of `model`, and hold them at zero through training.

    The model keeps its class, its forward pass and its state_dict keys. Copies (deepcopy, pickle) hold masks
    of their own; `load_state_dict` zeroes what it loads under the mask; `to` takes the masks along. Masks that the
    model held before are replaced, all of them, also those of parameters that `masks` leaves out.

    Args:
        model: any `nn.Module`, also one wrapped by `torch.compile` or DDP (its names then have the wrapper's
            prefix). Under DDP every rank applies the same masks.
        masks: for each parameter name, a bool tensor of the parameter's shape, True where the weight is kept.
            Any floating-point parameter may be named, also a frozen one. Tied weights are named once.

    Returns:
        What takes these masks away again; it need not be kept.

    Raises:
        Invalid: if a name, shape or type does not fit. Nothing has been changed then.
    """
    masks = _as_masks(model, masks)
    parameters = _named(model, masks)
    release(model)
    origin = object()
    for name, parameter in parameters.items():
        held = _hold(parameter, masks[name], origin)
        for module, attribute in owners(model, parameter):
            _slots(module).held[attribute] = held
    return Handle(model, origin)


def masks_of(model: nn.Module) -> Masks:
    """A copy of the masks that `model` holds, in the order of its parameters.

    Masks that `prunus.supermask` learns are listed by the names that their weights have in the plain model. Tied
    weights are listed once, under their first name. Parameters without a mask are not listed.

    Raises:
        Invalid: if the model holds no masks, or a masked parameter was replaced by hand since.
    """
    for path, module in model.named_modules():
        for attribute, held in _held(module).items():
            if module._parameters.get(attribute) is not held.parameter:
                name = f"{path}.{attribute}".lstrip(".")
                raise Invalid(f"{name} was replaced after its mask was applied: apply the masks again")
    held = {name: _every.get(id(parameter)) for name, parameter in model.named_parameters()}
    found = {name: h.keep.mask for name, h in held.items() if h is not None}
    found |= masks_learned(model)
    if not found:
        raise Invalid(f"this {type(model).__name__} holds no masks: apply(model, masks) gives it some")
    return Masks._made(found)


def release(model: nn.Module) -> None:
    """Take all masks away from `model`; its weights stay as they are. Without masks, this does nothing.

    This also serves a copy, which no `Handle` knows. A weight that another model shares is let go there
    too.
    """
    for module in model.modules():
        for attribute in list(_held(module)):
            _let_go(module, attribute)


@dataclass(frozen=True, eq=False)
class Handle:
    """The masks of one `apply`."""

    model: nn.Module = field(repr=False)
    _origin: object = field(repr=False)

    def remove(self) -> None:
        """Take the masks away; the weights stay as they are (zeros) and may grow again.

        Masks that a later `apply` put in their place stay. Calling it again does nothing.
        """
        for module in self.model.modules():
            for attribute, held in list(_held(module).items()):
                if held.origin is self._origin:
                    _let_go(module, attribute)


class _Keep:
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
        return self._bits != 0

    def lay_out(self, mask: Tensor, parameter: Tensor) -> None:
        """Take `mask` (its shape is the parameter's), in the parameter's memory format."""
        like = torch.empty_like(parameter, device=mask.device if parameter.is_meta else parameter.device)
        self._stride = parameter.stride()
        self._bits = like.copy_(mask).neg_().to(_INTEGERS[like.element_size()])  # −1 has all bits set

    def __call__(self, parameter: Tensor) -> None:
        """Zero the masked gradient of `parameter`: its post-accumulate-grad hook."""
        gradient = parameter.grad
        if gradient is None:
            return
        if gradient.requires_grad:  # create_graph=True: what was computed must not be written to
            parameter.grad = torch.where(self.mask.to(gradient.device), gradient, 0)
        elif gradient.is_sparse:
            values, rows = gradient._values(), tuple(gradient._indices())
            bits = self._bits_for(values)[rows]
            values.view(bits.dtype).bitwise_and_(bits)
        else:
            bits = self._bits_for(gradient)
            gradient.view(bits.dtype).bitwise_and_(bits)

    def project(self, parameter: Tensor) -> None:
        """Zero the masked weights of `parameter` (call it under `no_grad`)."""
        if parameter.is_meta:  # no weights yet; the mask must not become a meta tensor with it
            return
        if parameter.stride() != self._stride:  # for speed: such as after to(memory_format=torch.channels_last)
            self.lay_out(self.mask, parameter)
        bits = self._bits_for(parameter)
        parameter.view(bits.dtype).bitwise_and_(bits)

    def _bits_for(self, tensor: Tensor) -> Tensor:
        # The model may have moved to another device or dtype since; −1 has all bits set at every width.
        bits, size = self._bits, tensor.element_size()
        if bits.element_size() != size or bits.device != tensor.device:
            bits = self._bits = bits.to(tensor.device, _INTEGERS[size])
        return bits


class _Held:
    """A parameter and its mask, held from construction on. Copies and unpickled ones hold their own parameter.

    The parameter's hook refers to `keep` and not to this object, which would be a reference cycle: a model that is
    dropped is freed at once.
    """

    def __init__(self, parameter: nn.Parameter, mask: Tensor, origin: object) -> None:
        self.parameter = parameter
        self.origin = origin
        self.keep = _Keep(mask, parameter)
        self.handle = _on_gradient(parameter, self.keep)
        _every[id(parameter)] = self
        _watch_optimizers()
        self.zero()

    def zero(self) -> None:
        """Zero the masked weights, and their gradients if there are any."""
        with torch.no_grad():
            self.keep.project(self.parameter)
        self.keep(self.parameter)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Held":
        return _Held(deepcopy(self.parameter, memo), self.keep.mask, deepcopy(self.origin, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return _Held, (self.parameter, self.keep.mask, self.origin)


#: Every held parameter by its id, which stays its own because the `_Held` keeps it alive. The parameter itself
#: carries no attribute, so a pickled parameter knows nothing of Prunus.
_every: WeakValueDictionary[int, _Held] = WeakValueDictionary()


@dataclass
class _Slots:
    """What a module holds: its masked parameters by attribute name, and its hook after `load_state_dict`."""

    handle: RemovableHandle
    held: dict[str, _Held] = field(default_factory=dict)


def _slots(module: nn.Module) -> _Slots:
    if _SLOTS not in vars(module):
        setattr(module, _SLOTS, _Slots(module.register_load_state_dict_post_hook(_after_load)))
    return vars(module)[_SLOTS]


def _held(module: nn.Module) -> dict[str, _Held]:
    return vars(module)[_SLOTS].held if _SLOTS in vars(module) else {}


def _hold(parameter: nn.Parameter, mask: Tensor, origin: object) -> _Held:
    held = _every.get(id(parameter))
    if held is None:
        return _Held(parameter, mask, origin)
    # Held already through a module outside the model (a tied weight): both modules get the new mask.
    held.keep.lay_out(mask, parameter)
    held.origin = origin
    held.zero()
    return held


def _let_go(module: nn.Module, attribute: str) -> None:
    slots = _slots(module)
    held = slots.held.pop(attribute)
    held.handle.remove()
    _every.pop(id(held.parameter), None)
    if not slots.held:
        slots.handle.remove()
        delattr(module, _SLOTS)


def _on_gradient(parameter: nn.Parameter, hook: _Keep) -> RemovableHandle:
    # A frozen parameter takes no hook, but one that it has stays with it while it is frozen.
    trained = parameter.requires_grad
    try:
        return parameter.requires_grad_(True).register_post_accumulate_grad_hook(hook)
    finally:
        parameter.requires_grad_(trained)


def _after_load(module: nn.Module, _incompatible: object) -> None:
    """Mask what `load_state_dict` wrote. With `assign=True` there are new parameters, tied ones no longer tied."""
    held = _held(module)
    for attribute, before in list(held.items()):
        parameter = module._parameters.get(attribute)
        if parameter is not None and parameter is not before.parameter:
            held[attribute] = _hold(parameter, before.keep.mask, before.origin)
        held[attribute].zero()


@torch.no_grad()
def _after_step(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            held = _every.get(id(parameter))
            if held is not None:
                held.keep.project(parameter)


_watching: list[RemovableHandle] = []


def _watch_optimizers() -> None:
    if not _watching:  # a program that never masks anything pays nothing
        _watching.append(register_optimizer_step_post_hook(_after_step))


def _as_masks(model: nn.Module, masks: Masks | Mapping[str, Tensor]) -> Masks:
    if not isinstance(model, nn.Module):
        raise Invalid(f"model is of type {type(model).__name__}; allowed: a torch.nn.Module")
    if not isinstance(masks, Mapping):
        raise Invalid(f"masks is of type {type(masks).__name__}; allowed: Masks, or a mapping from name to tensor")
    for name, mask in masks.items():
        if not isinstance(mask, Tensor):
            raise Invalid(f"the mask of {name!r} is of type {type(mask).__name__}; allowed: a bool tensor")
    if not masks:
        raise Invalid("masks is empty; allowed: at least one mask (release(model) takes masks away)")
    return masks if isinstance(masks, Masks) else Masks(masks)


def _named(model: nn.Module, masks: Masks) -> dict[str, nn.Parameter]:
    every = dict(model.named_parameters(remove_duplicate=False))
    named: dict[str, nn.Parameter] = {}
    first: dict[int, str] = {}
    for name, mask in masks.items():
        if name not in every and _behind_parametrization(model, name):
            raise Invalid(f"{name} is behind a parametrization: remove it before masking the model")
        if name not in every:
            raise Invalid(f"masks has {name!r}, which is no parameter of the model; {nearest(name, every)}")
        _check(name, mask, every[name])
        if (twin := first.setdefault(id(every[name]), name)) != name:
            raise Invalid(f"{twin} and {name} are one tied weight; give it one mask")
        named[name] = every[name]
    return named


def _check(name: str, mask: Tensor, parameter: nn.Parameter) -> None:
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise Invalid(f"{name} is not initialised yet: run one batch through the lazy layer first")
    if type(parameter.data) is not Tensor:
        raise Invalid(f"{name} is a {type(parameter.data).__name__}; masks need plain, unsharded tensors")
    if not parameter.is_floating_point():
        raise Invalid(f"{name} is of type {parameter.dtype}; masks need floating point")
    if mask.shape != parameter.shape:
        raise Invalid(f"the mask of {name} has shape {tuple(mask.shape)}; allowed: {tuple(parameter.shape)}")
    if ".parametrizations." in f".{name}":
        raise Invalid(f"{name} is behind a parametrization: remove it before masking the model")


def _behind_parametrization(model: nn.Module, name: str) -> bool:
    path, _, attribute = name.rpartition(".")
    modules: Iterator[nn.Module] = (module for found, module in model.named_modules() if found == path)
    return any(is_parametrized(module, attribute) for module in modules)
