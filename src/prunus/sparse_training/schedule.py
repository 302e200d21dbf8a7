"""When the topology changes, and how much of it."""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi

from prunus.core.errors import Invalid, nearest

#: From progress in [0, 1) and the power to the factor on the fraction at the start, 1 at progress 0.
DECAYS: dict[str, Callable[[float, float], float]] = {
    "cosine": lambda progress, _: (1 + cos(pi * progress)) / 2,
    "constant": lambda _progress, _power: 1.0,
    "inverse-power": lambda progress, power: (1 - progress) ** power,
}


@dataclass(frozen=True)
class UpdateSchedule:
    """Updates at the steps `every`, 2 · `every`, … before `end` = round(until · total_steps).

    Steps are those of the optimizer, counted from 1. At step t the fraction is α · (1 + cos(π t / end)) / 2 under
    "cosine", α under "constant", and α · (1 − t / end) ^ power under "inverse-power" (Evci et al., "Rigging the
    lottery: making all tickets winners", 2020, ICML).

    Args:
        total_steps: how many steps the optimizer takes in all.
        every: steps from one update to the next.
        until: the part of `total_steps` after which nothing changes any more, in (0, 1].
        fraction: α, of the active weights of a layer, in [0, 1].
        decay: "cosine", "constant" or "inverse-power".
        power: of "inverse-power".

    Raises:
        Invalid: if a value is out of its range, or there would be no update at all.
    """

    total_steps: int
    every: int = 100
    until: float = 0.75
    fraction: float = 0.3
    decay: str = "cosine"
    power: float = 3.0

    def __post_init__(self) -> None:
        for name in ("total_steps", "every"):
            check_count(name, getattr(self, name))
        check_part("until", self.until)
        if not is_number(self.fraction) or not 0 <= self.fraction <= 1:
            raise Invalid(f"fraction is {self.fraction!r}; allowed: a number in [0, 1]")
        if self.decay not in DECAYS:
            raise Invalid(f"decay is {self.decay!r}; {nearest(str(self.decay), DECAYS)}")
        if not is_number(self.power) or not self.power > 0:
            raise Invalid(f"power is {self.power!r}; allowed: a number above 0")
        if self.every >= self.end:
            raise Invalid(
                f"every is {self.every} and updates end before step {self.end} ({self.until:g} of {self.total_steps}): "
                "the schedule ends before it begins; allowed: every below that step"
            )

    @property
    def end(self) -> int:
        """The step from which on nothing changes."""
        return round(self.until * self.total_steps)

    def due(self, step: int) -> bool:
        """Whether there is an update at `step`."""
        return step % self.every == 0 and step < self.end

    def fraction_at(self, step: int) -> float:
        """The fraction of the active weights to replace at `step`; 0 from `end` on."""
        progress = step / self.end
        return self.fraction * DECAYS[self.decay](progress, self.power) if progress < 1 else 0.0


def check_count(name: str, value: int) -> None:
    """Refuse what is no number of steps of at least one."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Invalid(f"{name} is {value!r}; allowed: a whole number of at least 1")


def check_part(name: str, value: float) -> None:
    """Refuse what is no part of the training."""
    if not is_number(value) or not 0 < value <= 1:
        raise Invalid(f"{name} is {value!r}; allowed: a number in (0, 1], the part of total_steps")


def is_number(value: object) -> bool:
    """Whether it is a real number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)
