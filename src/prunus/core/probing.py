"""Asking a model for its outputs and gradients at weights that are not its own, and leaving it as it was.

Nothing is copied that the forward pass does not write to: `torch.func.functional_call` puts other tensors in the
place of parameters while the model runs. Parameters, gradients, buffers, BatchNorm statistics, modes and torch's
generators are the same before and after, also where the model raises.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from prunus.core.errors import Invalid
from prunus.core.params import device_of

#: How modules behave while they are asked: as in evaluation (BatchNorm by its statistics), or as in training.
Mode = Literal["eval", "train"]
MODES: tuple[str, ...] = ("eval", "train")

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Batch:
    """One batch as a model takes it.

    Attributes:
        args: what the model is called with.
        kwargs: the same, by name.
        targets: what the outputs are compared with, if the batch says so.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    targets: Any = None

    @classmethod
    def read(cls, batch: Any) -> "Batch":
        """A batch in any of the usual forms.

        A tensor is the input; a mapping is what the model takes by name, with its targets under "labels"; a pair
        is (inputs, targets), where the inputs are a tensor, a mapping, or a tuple of what the model takes.
        """
        if isinstance(batch, Mapping):
            return cls((), dict(batch), batch.get("labels"))
        if isinstance(batch, tuple | list) and len(batch) == 2:
            inputs, targets = batch
            if isinstance(inputs, Mapping):
                return cls((), dict(inputs), targets)
            return cls(tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), {}, targets)
        if isinstance(batch, Tensor):
            return cls((batch,))
        raise Invalid(f"a batch is of type {type(batch).__name__}; allowed: a tensor, (inputs, targets) or a mapping")

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with each of its tensors changed."""
        return Batch(_mapped(self.args, change), _mapped(dict(self.kwargs), change), _mapped(self.targets, change))

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "Batch":
        """The batch on a device, its floating-point tensors in another type."""
        return self.mapped(lambda t: t.to(device, dtype if dtype and t.is_floating_point() else None))


class Probe:
    """A model at weights of the caller's choice.

    Args:
        model: any `nn.Module`; it is only read.
        values: parameters by name, and what stands in their place. Others keep their own values.
        dtype: the floating-point type that all else (other parameters, buffers, inputs) is brought to. Default: as
            it is.
    """

    def __init__(self, model: nn.Module, values: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
        self._model, self._dtype, self._device = model, dtype, device_of(model)
        others = {n: p.detach() for n, p in model.named_parameters() if n not in values}
        buffers = {n: b.detach() for n, b in model.named_buffers()}
        # buffers are copied: a forward pass may write to them
        self._values = {
            **{n: self._typed(t) for n, t in others.items()},
            **{n: self._typed(t).clone() for n, t in buffers.items()},
            **values,
        }

    def __call__(self, batch: Batch) -> Any:
        """The model's outputs for the batch.

        Raises:
            Invalid: if the model refuses the batch.
        """
        there = batch.to(self._device, self._dtype)
        try:
            return functional_call(self._model, self._values, there.args, dict(there.kwargs))
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AssertionError) as error:
            raise Invalid(refusal(self._model, batch, error)) from error

    def _typed(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._dtype) if self._dtype and tensor.is_floating_point() else tensor


def refusal(model: nn.Module, batch: Batch, error: BaseException) -> str:
    """What the model was given, and why it does not take it."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    given = [_described(a) for a in batch.args] + [f"{n}={_described(a)}" for n, a in batch.kwargs.items()]
    return f"{type(model).__name__} does not take {', '.join(given) or 'no inputs'}: {said}"


@contextmanager
def untouched(model: nn.Module, mode: str = "eval") -> Iterator[None]:
    """Within, the model is in evaluation or training mode and runs uncompiled; afterwards all is as it was."""
    if mode not in MODES:
        raise Invalid(f"mode is {mode!r}; allowed: {', '.join(MODES)}")
    before = [(module, module.training) for module in model.modules()]
    gpus = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=gpus), _uncompiled(model), torch.enable_grad():
            for module, _ in before:
                module.training = mode == "train"
            yield
    finally:
        for module, training in before:
            module.training = training


def _uncompiled(model: nn.Module) -> AbstractContextManager[Any]:
    # the import of the compiler takes a second, so only where there is something compiled
    compiled = any(m._compiled_call_impl is not None or hasattr(m, "_orig_mod") for m in model.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def loss_of(outputs: Any, batch: Batch, loss: Loss | None = None, temperature: float = 1.0) -> Tensor:
    """The loss of a batch as one number.

    Args:
        outputs: what the model gave: a tensor, or an object or mapping with `logits`.
        batch: with its targets.
        loss: `loss(outputs, targets)`. Default: the model's own loss, if its outputs have one; or else
            cross-entropy.
        temperature: what logits are divided by first; where it is not 1, a model's own loss is not used.

    Raises:
        Invalid: if there is no target, or no loss can be had.
    """
    own = _field(outputs, "loss")
    if loss is None and own is not None and temperature == 1:
        return own
    logits = outputs if isinstance(outputs, Tensor) else _field(outputs, "logits")
    if temperature != 1:
        if logits is None:
            raise Invalid(f"outputs are of type {type(outputs).__name__}; a temperature needs a tensor, or logits")
        logits = outputs = logits / temperature
    if batch.targets is None:
        raise Invalid("batches hold no targets; allowed: (inputs, targets), or mappings with 'labels'")
    if loss is not None:
        return loss(outputs, batch.targets)
    if logits is None:
        raise Invalid(f"outputs are of type {type(outputs).__name__}; allowed without loss=: a tensor, or logits")
    if batch.targets.shape == logits.shape[:-1]:  # one class a row, or a token
        return nn.functional.cross_entropy(logits.flatten(0, -2), batch.targets.flatten())
    return nn.functional.cross_entropy(logits, batch.targets)


def tensors_in(outputs: Any) -> list[Tensor]:
    """The floating-point tensors of a model's outputs; of outputs with logits, only those."""
    logits = _field(outputs, "logits")
    if isinstance(logits, Tensor):
        return [logits]
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.is_floating_point() else []
    parts: Iterable[Any] = outputs.values() if isinstance(outputs, Mapping) else outputs
    if not isinstance(outputs, Mapping | tuple | list):
        return []
    return [tensor for part in parts for tensor in tensors_in(part)]


def _field(outputs: Any, name: str) -> Any:
    if isinstance(outputs, Tensor):
        return None
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(part, change) for name, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [_mapped(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return type(value).__name__
