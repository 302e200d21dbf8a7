"""What the callbacks share: a method that is made when a trainer has its model and optimizer ready."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from inspect import signature
from typing import Any

from torch import nn
from torch.optim import Optimizer

from prunus.core.errors import Invalid, nearest
from prunus.sparse_training.base import SparseTraining


class Carried:
    """A method to be, and then that method.

    Args:
        make: the method's class, such as `prunus.RigL`, or any function that makes one of a model, an optimizer and
            options.
        options: of the method. `total_steps` is the trainer's own number unless it is given.

    Raises:
        Invalid: if `make` cannot be called, or has no such option.

    Attributes:
        method: the method; None until training begins.
    """

    def __init__(self, make: Callable[..., SparseTraining], **options: Any) -> None:
        if not callable(make):
            raise Invalid(f"make is {make!r}; allowed: a method's class, such as prunus.RigL, or a function")
        known = signature(make).parameters
        loose = any(each.kind is each.VAR_KEYWORD for each in known.values())
        for option in options if not loose else ():
            if option not in known:
                raise Invalid(f"{getattr(make, '__name__', 'make')} has no option {option!r}; {nearest(option, known)}")
        self.make, self.options = make, options
        self.method: SparseTraining | None = None

    def begin(
        self, model: nn.Module, optimizer: Optimizer, total_steps: float, state: Mapping[str, Any] | None = None
    ) -> None:
        """Make the method, to go on from `state` if there is one.

        Args:
            model: as it was when the state was saved.
            optimizer: of which only the moments of active weights stay; load those of the state afterwards.
            total_steps: the trainer's number of steps of the optimizer.
            state: of the method.

        Raises:
            Invalid: if an option is, or the model was not saved together with the state.
        """
        timed = "total_steps" in signature(self.make).parameters
        options = {"total_steps": total_steps, **self.options} if timed else self.options
        if self.method:
            self.method.remove()
        weights = None if state is None else deepcopy(model.state_dict())
        self.method = self.make(model, optimizer, **options)
        if state is None or weights is None:
            return
        model.load_state_dict(weights)  # again: they were masked, and not by the masks of the state
        self.method.load_state_dict(state)
        active = self.method.state_dict()["active"]
        if active != state["active"]:
            raise Invalid(f"masks of {state['active']:,} weights leave {active:,} of this model: it is of another time")

    def load(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        """Have the method take a state whose weights were just loaded, if it is the method of this model."""
        if self.method and self.method.model is model:
            self.method.load_state_dict(state)

    @property
    def density(self) -> float:
        """The fraction of the prunable weights that is active now."""
        layers = self.method.layers.values() if self.method else ()
        return sum(layer.kept for layer in layers) / sum(layer.size for layer in layers)
