"""What is to happen right before each step of an optimizer, when all gradients are there."""

from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


def before_steps(optimizer: Optimizer, ready: Callable[[], None]) -> RemovableHandle:
    """Call a bound method right before each step that the optimizer takes; where it is given a closure, after that.

    The optimizer keeps neither the method nor its object alive. A step that a GradScaler skips is none.
    """
    method = WeakMethod(ready)

    def before(_: Optimizer, given: Any, kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        if (own := method()) is None:
            return None
        first, *rest = given  # the optimizer itself, and the closure if it has no name
        closure = rest[0] if rest else kwargs.get("closure")
        if closure is None:
            if not skipped(optimizer):
                own()
            return None

        def evaluated() -> Any:
            loss = closure()
            own()
            return loss

        return ((first, evaluated, *rest[1:]), kwargs) if rest else (given, {**kwargs, "closure": evaluated})

    return optimizer.register_step_pre_hook(before)


def skipped(optimizer: Optimizer) -> bool:
    """Whether a GradScaler has the optimizer skip this step by itself, as fused ones do."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def unscaled(optimizer: Optimizer, gradient: Tensor) -> Tensor:
    """A gradient, right before a step, without the factor of a GradScaler: fused optimizers divide by it themselves."""
    scale = getattr(optimizer, "grad_scale", None)
    return gradient if scale is None else gradient / scale


def scaled(optimizer: Optimizer, gradient: Tensor) -> Tensor:
    """The inverse, for what is added to the gradient."""
    scale = getattr(optimizer, "grad_scale", None)
    return gradient if scale is None else gradient * scale


def after_steps(optimizer: Optimizer, taken: Callable[[], None]) -> RemovableHandle:
    """Call a bound method right after each step, before masked weights are zeroed; also after one that was skipped.

    The optimizer keeps neither the method nor its object alive.
    """
    method = WeakMethod(taken)

    def after(_: Optimizer, _given: Any, _kwargs: dict[str, Any]) -> None:
        if (own := method()) is not None:
            own()

    return optimizer.register_step_post_hook(after)
