"""Whether there is a path: any network run on 0 and 1, forwards from its inputs and backwards from its outputs.

Within `with Boolean():` what is followed (the tensors that require a gradient) holds 1 where a path arrives, and so do
the gradients, for paths to the outputs. Operations compute as always, with weights of 0 and 1: products are "and", sums
are "or". After each of them values and gradients are brought back to 0 and 1, so nothing overflows or vanishes, however
deep and large the network. Normalisation and activations do nothing, and pooling adds up, so that no path is lost to
the largest value.

What is added without being followed (biases, learned positions) is no path, but it keeps what it is added to from being
zero; so do softmax and sigmoids. That counts where two things are multiplied: attention weights and gates let pass what
they are multiplied with, also where no path arrives at them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.analysis.boolean_rules import LOOKED_UP, RULES
from prunus.analysis.boolean_values import PATH, flags
from prunus.analysis.linearised import Linearised
from prunus.core.errors import Invalid
from prunus.core.probing import Batch, Probe, tensors_in, untouched

_RECURRENT = {f"{kind}{form}" for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu") for form in ("", "_cell")}


class Boolean(Linearised):
    """The mode; see the module."""

    def __init__(self) -> None:
        super().__init__("identity")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation of the forward pass."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        given = list(_floats((args, tuple(kwargs.values()))))
        if name not in LOOKED_UP and not any(tensor.requires_grad for tensor in given):
            return func(*args, **kwargs)
        if name in _RECURRENT:
            raise Invalid(f"paths through {name} are not followed; allowed: models without torch's recurrent layers")
        rule = RULES.get(name) or self._rules.get(func, func)
        # a view, or what was changed in place, is left as it is, so that it stays one
        storages = {tensor.untyped_storage().data_ptr() for tensor in given}
        return _each(rule(*args, **kwargs), lambda t: t if t.untyped_storage().data_ptr() in storages else flags(t))


@dataclass(frozen=True)
class Reached:
    """What paths reach.

    Attributes:
        outputs: how many outputs one input has.
        reached: how many of them a path from the inputs arrives at.
        found: for each followed parameter, a bool tensor: True where a kept weight lies on a path from an input to
            an output. Empty where only the forward pass was asked for.
    """

    outputs: int
    reached: int
    found: Mapping[str, Tensor]


def reach(model: nn.Module, kept: Mapping[str, Tensor], inputs: Batch, *, back: bool = True) -> Reached:
    """Follow the paths of kept weights through a model.

    Args:
        model: any `nn.Module`; it is only read.
        kept: for each parameter that is followed, by name, a tensor that is not zero where a weight is kept. All other
            weights are kept, and biases are no paths unless they are followed.
        inputs: what the model takes; the first row, each number of which is where paths begin.
        back: whether to go back from the outputs too.

    Raises:
        Invalid: if the model does not take the inputs, gives no floating-point outputs, or is recurrent.
    """
    with torch.inference_mode(False):  # wherever it is called from, gradients are needed
        return _reach(model, kept, inputs, back)


def _reach(model: nn.Module, kept: Mapping[str, Tensor], inputs: Batch, back: bool) -> Reached:
    every = dict(model.named_parameters())
    first = _first_names(model)
    weights = {first[n]: (k != 0).to(every[first[n]].device, torch.float32).requires_grad_() for n, k in kept.items()}
    others = {
        n: torch.full_like(p, 0.0 if n.rpartition(".")[-1].endswith("bias") else 1.0, dtype=torch.float32)
        for n, p in every.items()
        if n not in weights and p.is_floating_point()
    }
    probe = Probe(model, {**weights, **others}, torch.float32)
    # fast convolutions by transforms leave rounding errors where exact zeros are wanted
    with untouched(model), torch.backends.cudnn.flags(enabled=False):
        with Boolean():
            outputs = tensors_in(probe(inputs.mapped(_sources)))
        if not outputs:
            raise Invalid(f"{type(model).__name__} gives no floating-point tensors, so no paths end anywhere")
        followed = [t for t in outputs if t.requires_grad]
        reached = sum(int((t > PATH).count_nonzero()) for t in followed)
        found: dict[str, Tensor] = {}
        if back:
            found = {n: torch.zeros_like(weights[first[n]], dtype=torch.bool) for n in kept}
            hooks = [weights[first[n]].register_post_accumulate_grad_hook(_into(f)) for n, f in found.items()]
            if followed:
                torch.autograd.backward(followed, [torch.ones_like(t) for t in followed])
            for hook in hooks:
                hook.remove()
    return Reached(sum(t.numel() for t in outputs), reached, found)


def by_first_name(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same by the first names of tied parameters, which `prunable` and `functional_call` know them by."""
    first = _first_names(model)
    return {first[name]: tensor for name, tensor in tensors.items()}


def _first_names(model: nn.Module) -> dict[str, str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {name: names[id(parameter)] for name, parameter in model.named_parameters(remove_duplicate=False)}


def _sources(given: Tensor) -> Tensor:
    """Ones that are followed, and may be written to."""
    one = given[:1]
    return torch.ones_like(one).requires_grad_().clone() if one.is_floating_point() else one


def _into(found: Tensor) -> Callable[[Tensor], None]:
    def hook(weight: Tensor) -> None:
        gradient, weight.grad = weight.grad, None
        assert gradient is not None
        torch.logical_and(gradient > PATH, weight.detach() != 0, out=found)

    return hook


def _floats(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _floats(part)


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    return type(value)(_each(part, change) for part in value) if type(value) in (tuple, list) else value
