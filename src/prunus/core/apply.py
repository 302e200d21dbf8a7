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
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from prunus.core.errors import Invalid, nearest
from prunus.core.held import every, held_in, hold, let_go, slots_of
from prunus.core.learned import masks_learned
from prunus.core.masks import Masks
from prunus.core.params import owners


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
        held = hold(parameter, masks[name], origin)
        for module, attribute in owners(model, parameter):
            slots_of(module).held[attribute] = held
    return Handle(model, origin)


def masks_of(model: nn.Module) -> Masks:
    """A copy of the masks that `model` holds, in the order of its parameters.

    Masks that `prunus.supermask` learns are listed by the names that their weights have in the plain model. Tied
    weights are listed once, under their first name. Parameters without a mask are not listed.

    Raises:
        Invalid: if the model holds no masks, or a masked parameter was replaced by hand since.
    """
    for path, module in model.named_modules():
        for attribute, held in held_in(module).items():
            if module._parameters.get(attribute) is not held.parameter:
                name = f"{path}.{attribute}".lstrip(".")
                raise Invalid(f"{name} was replaced after its mask was applied: apply the masks again")
    held = {name: every.get(id(parameter)) for name, parameter in model.named_parameters()}
    found = {name: h.keep.weights.mask for name, h in held.items() if h is not None}
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
        for attribute in list(held_in(module)):
            let_go(module, attribute)


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
            for attribute, held in list(held_in(module).items()):
                if held.origin is self._origin:
                    let_go(module, attribute)


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
    there = dict(model.named_parameters(remove_duplicate=False))
    named: dict[str, nn.Parameter] = {}
    first: dict[int, str] = {}
    for name, mask in masks.items():
        if name not in there and _behind_parametrization(model, name):
            raise Invalid(f"{name} is behind a parametrization: remove it before masking the model")
        if name not in there:
            raise Invalid(f"masks has {name!r}, which is no parameter of the model; {nearest(name, there)}")
        _check(name, mask, there[name])
        if (twin := first.setdefault(id(there[name]), name)) != name:
            raise Invalid(f"{twin} and {name} are one tied weight; give it one mask")
        named[name] = there[name]
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
