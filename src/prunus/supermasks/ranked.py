"""`Ranked`: methods that keep so many of the highest-ranked entries, exactly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from prunus.core.allocation import ALLOCATIONS, allot
from prunus.core.errors import Invalid, check_density, nearest
from prunus.core.ranked import masks_of_largest, write_largest
from prunus.core.schedules import SCHEDULES, Schedule
from prunus.supermasks.layer import MaskedWeight, Whole
from prunus.supermasks.method import Method, check_positive
from prunus.supermasks.part import Part

#: Scopes that look at more than the shapes of layers, and at other times than `global` does.
_OTHERWISE = ("lamp",)


@dataclass(frozen=True)
class Ranked(Method):
    """Keeps `round(density × n)` of the highest-ranked entries at every step; ties go by position.

    Args:
        density: fraction kept, in (0, 1].
        scope: `"layerwise"` keeps it in each layer, `"global"` in all together, wherever they rank highest; or another
            of `prunus list scopes` that looks at shapes, such as `"erk"`. Default: `"layerwise"`.
        schedule: how the density goes from 1 to its target: a name of `prunus list schedules`, or a function of the
            fraction of the way. Default: None, the target from the start.
        steps: over how many steps of the optimizer it does so; None without a schedule.
        start: how many steps it waits before it begins to. Default: 0.
    """

    absolute: ClassVar[bool] = True  # whether the absolute values of what is learned are ranked

    density: float = 0.5
    scope: str = "layerwise"
    schedule: str | Schedule | None = None
    steps: int | None = None
    start: int = 0

    def __post_init__(self) -> None:
        check_density(self.density)
        allowed = [name for name in ALLOCATIONS if name not in _OTHERWISE]
        if self.scope not in allowed:
            raise Invalid(f"scope is {self.scope!r}; {nearest(str(self.scope), allowed)}")
        if isinstance(self.schedule, str):
            SCHEDULES.look_up(self.schedule)
        if (self.schedule is None) != (self.steps is None):
            raise Invalid(f"schedule is {self.schedule!r} with steps {self.steps!r}; they go together")
        if self.steps is not None:
            check_positive("steps", self.steps)
        if isinstance(self.start, bool) or not isinstance(self.start, int) or self.start < 0:
            raise Invalid(f"start is {self.start!r}; allowed: a whole number of steps")

    @property
    def target(self) -> float:
        """The density in the end."""
        return self.density

    @property
    def joint(self) -> bool:
        """Whether the entries of all layers are ranked together."""
        return self.scope == "global"

    def density_at(self, step: int) -> float:
        """The density after so many steps."""
        if self.schedule is None or self.steps is None:
            return self.density
        way = self.schedule if callable(self.schedule) else SCHEDULES[self.schedule]
        return way(min(1.0, max(0, step - self.start) / self.steps), self.density)

    def counts(self, weights: Mapping[str, Tensor], step: int) -> dict[str, int]:
        """How many weights each layer keeps after so many steps; under `"global"` all under the first name."""
        density = self.density_at(step)
        if self.scope == "layerwise":
            return {name: round(density * weight.numel()) for name, weight in weights.items()}
        keep = round(density * sum(weight.numel() for weight in weights.values()))
        if self.joint:
            return {name: 0 if i else keep for i, name in enumerate(weights)}
        return allot(self.scope, weights, keep)

    def check(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Refuse a density that keeps no weight of a layer, or of all of them."""
        kept = self.counts(weights, self.start + (self.steps or 0))
        for name, count in kept.items():
            if count < 1 and not (self.joint and name != next(iter(kept))):
                size = sum(w.numel() for w in weights.values()) if self.joint else weights[name].numel()
                where = "all layers" if self.joint else name
                raise Invalid(
                    f"density is {self.density!r} (scope {self.scope!r}), which keeps none of the {size:,} weights of "
                    f"{where}; allowed: more, or a scope that gives small layers more"
                )

    def write(self, layers: Sequence[MaskedWeight]) -> None:
        """Write each weight where it is kept, and zero elsewhere."""
        self._count(layers[0].supermask)
        for group in self._groups(layers):
            ranked = [layer.learned.detach() for layer in group]
            weights = [layer.weight.detach() for layer in group]
            keep = sum(layer.keep for layer in group)
            try:
                write_largest(ranked, weights, [layer.place() for layer in group], keep, absolute=self.absolute)
            except Invalid as error:
                raise Invalid(f"{group[0].name}{' and others' * (len(group) > 1)}: {error}") from error

    def masks(self, layers: Sequence[MaskedWeight]) -> list[Tensor]:
        """The masks of layers now, of all of them where they are ranked together."""
        self._count(layers[0].supermask)
        found = []
        for group in self._groups(layers):
            ranked = [layer.learned.detach() for layer in group]
            found += masks_of_largest(ranked, sum(layer.keep for layer in group), absolute=self.absolute)
        return found

    def parts(self, layers: Sequence[MaskedWeight]) -> list[Part]:
        """The same masks on the weights as they are."""
        return [Part(mask.to(torch.int8)) for mask in self.masks(layers)]

    def _groups(self, layers: Sequence[MaskedWeight]) -> list[Sequence[MaskedWeight]]:
        return [layers] if self.joint else [[layer] for layer in layers]

    def _count(self, supermask: Whole) -> None:
        step = supermask.step_count if self.schedule else 0
        if supermask.counted_at == step:
            return
        weights = {name: layer.weight for name, layer in supermask.layers.items()}
        for name, keep in self.counts(weights, step).items():
            supermask.layers[name].keep = keep
        supermask.counted_at = step


def mean_of_kept(effective: Tensor, keep: Tensor | int) -> Tensor:
    """The mean absolute value of `keep` kept weights, of which `effective` holds the values and zeros elsewhere."""
    exact = torch.promote_types(effective.dtype, torch.float32)  # the sum may be more than float16 can hold
    total = torch.linalg.vector_norm(effective, 1, dtype=exact)
    return total / (keep.clamp(min=1) if isinstance(keep, Tensor) else max(1, keep))
