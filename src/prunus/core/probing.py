"""Asking a model for its outputs and gradients at weights that are not its own, and leaving it as it was.

Nothing is copied that the forward pass does not write to: `torch.func.functional_call` puts other tensors in the
place of parameters while the model runs. Parameters, gradients, buffers, BatchNorm statistics, modes and torch's
generators are the same before and after, also where the model raises.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from prunus.core.errors import Invalid
from prunus.core.params import device_of

#: How BatchNorm normalises while a model is asked: by its own statistics, or by those of the batch, as in training. All
#: else is as in evaluation: dropout would make scores depend on the state of a generator.
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
        is (inputs, targets), where the inputs are a tensor, a mapping, or a tuple of what the model takes. Inputs alone
        may stand in a tuple of one, as loaders of data without targets give them.

        Raises:
            Invalid: if it is nothing of these.
        """
        if isinstance(batch, tuple | list) and len(batch) == 1:
            return cls.read(batch[0])
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

    A model that is wrapped by DistributedDataParallel, DataParallel or `torch.compile` is asked without the wrapper.
    """

    def __init__(self, model: nn.Module, values: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
        self._dtype, self._device = dtype, device_of(model)
        others = {n: p.detach() for n, p in model.named_parameters() if n not in values}
        # what a forward pass may write to is copied
        written = {n: self._typed(b.detach()).clone() for n, b in model.named_buffers() if n not in values}
        written |= {n: self._typed(others[n]).clone() for n in _renormed(model) if n in others}
        every = {**{n: self._typed(t) for n, t in others.items()}, **written, **values}
        self._model, prefix = _unwrapped(model)
        self._values = {name.removeprefix(prefix): tensor for name, tensor in every.items()}

    def __call__(self, batch: Batch) -> Any:
        """The model's outputs for the batch.

        Raises:
            Invalid: if the model refuses the batch.
        """
        there = batch.to(self._device, self._dtype)
        try:
            return functional_call(self._model, self._values, there.args, dict(there.kwargs))
        except Invalid:
            raise
        except Exception as error:  # whatever a model raises, it does not take the batch
            raise Invalid(refusal(self._model, batch, error)) from error

    def _typed(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._dtype) if self._dtype and tensor.is_floating_point() else tensor


def _unwrapped(model: nn.Module) -> tuple[nn.Module, str]:
    """The model inside wrappers that would compile it or speak to other processes, and what they add to its names."""
    prefix = ""
    while attribute := _inside(model):
        model, prefix = getattr(model, attribute), f"{prefix}{attribute}."
    return model, prefix


def _inside(model: nn.Module) -> str | None:
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return "module"
    return "_orig_mod" if hasattr(model, "_orig_mod") else None


def _renormed(model: nn.Module) -> list[str]:
    """Embeddings with max_norm= rescale their own weights in the forward pass."""
    named = model.named_modules(remove_duplicate=False)
    return [f"{path}.weight".lstrip(".") for path, module in named if getattr(module, "max_norm", None) is not None]


def refusal(model: nn.Module, batch: Batch, error: BaseException) -> str:
    """What the model was given, and why it does not take it."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    given = [_described(a) for a in batch.args] + [f"{n}={_described(a)}" for n, a in batch.kwargs.items()]
    return f"{type(model).__name__} does not take {', '.join(given) or 'no inputs'}: {said}"


@contextmanager
def untouched(model: nn.Module, mode: str = "eval") -> Iterator[None]:
    """Within, the model is in evaluation mode and runs uncompiled, and gradients can be taken.

    In the mode "train" BatchNorm normalises by the batch, as in training; nothing else does as in training. No autocast
    and no inference mode of the caller's reach inside. Afterwards all is as it was.
    """
    if mode not in MODES:
        raise Invalid(f"mode is {mode!r}; allowed: {', '.join(MODES)}")
    before = [(module, module.training) for module in model.modules()]
    gpus = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        with (
            torch.random.fork_rng(devices=gpus),
            torch.autocast(device_of(model).type, enabled=False),
            torch.inference_mode(False),
            torch.enable_grad(),
            _uncompiled(model),
        ):
            for module, _ in before:
                module.training = mode == "train" and isinstance(module, nn.modules.batchnorm._NormBase)
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
        temperature: what logits are divided by first. Where it is not 1, a model's own loss must be cross-entropy
            with the targets, or of each token with the next.

    Raises:
        Invalid: if there is no target, or no loss can be had.
    """
    own = _field(outputs, "loss") if loss is None else None
    if own is not None and temperature == 1:
        return own
    logits = outputs if isinstance(outputs, Tensor) else _field(outputs, "logits")
    if temperature != 1 and logits is None:
        raise Invalid(f"outputs are of type {type(outputs).__name__}; a temperature needs a tensor, or logits")
    if batch.targets is None:
        raise Invalid("batches hold no targets; allowed: [(inputs, targets), …], or mappings with 'labels'")
    if loss is not None:
        return _applied(loss, outputs if temperature == 1 else _cooled(outputs, logits / temperature), batch.targets)
    if logits is None:
        raise Invalid(f"outputs are of type {type(outputs).__name__}; allowed without loss=: a tensor, or logits")
    like = _cross_entropy if own is None else _like(own, logits, batch.targets)
    if like is None:
        raise Invalid(
            f"the model's own loss is no cross-entropy, so it has no temperature={temperature:g}; "
            "allowed: temperature=1, or loss="
        )
    return _applied(like, logits / temperature, batch.targets)


def _applied(loss: Loss, outputs: Any, targets: Any) -> Tensor:
    try:
        return loss(outputs, targets)
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        given = f"outputs ({_described(outputs)}) and targets ({_described(targets)})"
        raise Invalid(f"the loss does not take these {given}: {said}") from error


def _like(own: Tensor, logits: Tensor, targets: Tensor) -> Loss | None:
    """The cross-entropy that a model's own loss is."""
    for loss in (_cross_entropy, _cross_entropy_of_next):
        if torch.allclose(own, _applied(loss, logits, targets).to(own.dtype), rtol=1e-3):
            return loss
    return None


def _cross_entropy_of_next(logits: Tensor, targets: Tensor) -> Tensor:
    return _cross_entropy(logits[:, :-1], targets[:, 1:]) if targets.dim() == 2 else _cross_entropy(logits, targets)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.shape == logits.shape[:-1]:  # one class a row, or a token
        return nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
    return nn.functional.cross_entropy(logits, targets)


def _cooled(outputs: Any, logits: Tensor) -> Any:
    """The outputs with other logits in their place."""
    if isinstance(outputs, Tensor):
        return logits
    changed = copy(outputs)
    if isinstance(changed, MutableMapping):
        changed["logits"] = logits
    else:
        changed.logits = logits
    return changed


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
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{'an' if dtype[0] == 'i' else 'a'} {dtype} tensor of shape {tuple(value.shape)}"
    return type(value).__name__
