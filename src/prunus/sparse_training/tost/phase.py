"""What is there for the first part of a training only: how long, where it stands, and its way back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, Self

import torch

from prunus.core.errors import Invalid


class Phase(ABC):
    """A part of a training from its first step on, counted in steps of the optimizer.

    Call `step()` after each `optimizer.step()`. After `until · total_steps` of them, at least one, all that the phase
    has changed is as it was; `finish()` ends it earlier.

    Args:
        total_steps: length of the whole training in steps of the optimizer; None for a phase without an end.
        until: the fraction of it that the phase lasts, in (0, 1].

    Raises:
        Invalid: if one of them is outside its range.
    """

    def __init__(self, total_steps: int | None, until: float) -> None:
        if total_steps is not None:
            check_count("total_steps", total_steps)
        check_number("until", until, lambda f: 0 < f <= 1, "a fraction of the training in (0, 1]")
        self.total_steps, self.until = total_steps, float(until)
        self.length = None if total_steps is None else max(1, round(until * total_steps))
        self.steps = 0
        self.ended = False

    def step(self) -> None:
        """Go on by one step of the training."""
        self.steps += 1
        if self.ended:
            return
        if self.length is not None and self.steps >= self.length:
            self.finish()
        else:
            self._go_on()

    def finish(self) -> None:
        """End the phase now. Calling it again does nothing."""
        if not self.ended:
            self.ended = True
            self._end()

    @property
    def progress(self) -> float:
        """How much of the phase is over, in [0, 1]."""
        if self.ended:
            return 1.0
        return self.steps / self.length if self.length else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Numbers, and tensors by flat names: all that it takes to go on in the middle, bit for bit."""
        return {**self._settings(), "steps": self.steps, "ended": self.ended, **self._kept()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state, in an object made with the same arguments.

        Raises:
            Invalid: if the state is of another training, or of something else. Nothing has been changed then.
        """
        state = dict(state_dict)
        self._check(state)
        steps, ended = state.pop("steps"), state.pop("ended")
        if ended:
            self.finish()
        elif self.ended:
            self._begin()
        self.steps, self.ended = steps, ended
        if not ended:
            self._take({name: value for name, value in state.items() if name not in self._settings()})
            self._go_on()

    def _check(self, state: Mapping[str, Any]) -> None:
        kind = type(self).__name__
        for name in ("steps", "ended", *self._settings()):
            if name not in state:
                raise Invalid(f"the state has no {name!r}; allowed: the state_dict() of a {kind}")
        for name, own in self._settings().items():
            if state[name] != own:
                raise Invalid(f"the state is of a {kind} with {name}={state[name]!r}; allowed: {own!r}, as made here")

    def _settings(self) -> dict[str, Any]:
        """What a state must have been saved with."""
        return {"total_steps": self.total_steps, "until": self.until}

    def _kept(self) -> dict[str, Any]:
        """What is kept beside the count of steps."""
        return {}

    def _take(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (most keep nothing)
        """The inverse."""

    @abstractmethod
    def _begin(self) -> None:
        """Change what is to be changed."""

    @abstractmethod
    def _go_on(self) -> None:
        """Be where `progress` says."""

    @abstractmethod
    def _end(self) -> None:
        """Put everything back."""


class Dial:
    """A number that changes from step to step, and whether it still counts.

    It is a tensor, so compiled code reads it anew and is not compiled again; it lies on the CPU, where setting it costs
    nothing, and PyTorch takes it in products with tensors of any device. Copies of a model share the dials of the
    model, and so become plain with it; only a pickled one keeps what stood at that moment.

    Args:
        value: the number.
    """

    def __init__(self, value: float) -> None:
        self.value = torch.tensor(float(value))
        self.off = False

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self

    def turn(self, value: float) -> None:
        """The number is `value` from now on."""
        self.value.fill_(value)


def check_count(name: str, value: Any) -> None:
    """Refuse what is no whole number of at least 1.

    Raises:
        Invalid: naming it and what is allowed.
    """
    check_number(name, value, lambda n: isinstance(n, int) and n >= 1, "an integer of at least 1")


def check_number(name: str, value: Any, fits: Callable[[Any], bool], allowed: str) -> None:
    """Refuse what is no number, or one that does not fit.

    Raises:
        Invalid: naming it and what is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not fits(value):
        raise Invalid(f"{name} is {value!r}; allowed: {allowed}")
