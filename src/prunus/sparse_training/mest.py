"""`MEST`: sparse training under a soft memory bound. New weights are tried beside the old before any is dropped."""

from dataclasses import KW_ONLY, dataclass, field
from math import floor, inf
from typing import ClassVar

from torch import Tensor

from prunus.core.errors import Invalid
from prunus.sparse_training.dynamic import Choice, Dynamic
from prunus.sparse_training.hooks import unscaled
from prunus.sparse_training.layer import SparseLayer, comparable, largest
from prunus.sparse_training.schedule import is_number


@dataclass(eq=False)
class MEST(Dynamic):
    """Grow a part beside the weights of each layer, train all, and drop what matters least.

    Yuan et al., "MEST: accurate and fast memory-economic sparse training framework on the edge", 2021, NeurIPS: its
    elastic mutation with a soft memory bound (EM&S). At an update each layer drops to the A weights of its density,
    those of the largest |θ| + λ |∂L/∂θ|, and grows ⌊p · A⌋ at random, as far as there are free positions; they begin
    at 0 and may be some that were just dropped. p falls by a cosine, and the last update only drops: from three
    quarters of the training on the density is exactly the one asked for, as it is before the first update. Between
    them it is up to 1 + p times that, and so are memory and operations.

    p begins at 0.5, as in the authors' scripts for 90 % sparsity. There it falls by steps, to half at 56 % and to 0 at
    75 % of the training, updates are every five epochs, and the first is before the first step; here they are every
    100 steps. The paper ranks by λ; in the authors' code λ is 0 unless it is given, and their scripts give none. The
    hard bound (EM), which drops before it grows and never exceeds the density, is `SET`, up to λ.

    Args:
        fraction: p at first, of the weights of the density, in [0, 1]. Default: 0.5.
        gradient_weight: λ, at least 0. The gradient is that of the step before the update.

    The other arguments are those of `Dynamic` and `SparseTraining`, without `pattern`.
    """

    name: ClassVar[str] = "mest"
    patterned: ClassVar[bool] = False

    _: KW_ONLY
    fraction: float = 0.5
    gradient_weight: float = 0.0

    _slopes: dict[str, Tensor] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not is_number(self.gradient_weight) or not 0 <= self.gradient_weight < inf:
            raise Invalid(f"gradient_weight is {self.gradient_weight!r}; allowed: a number of at least 0")
        super().__post_init__()

    def due(self, step: int) -> bool:
        """Whether there is an update at `step`: as for all, and one at the end."""
        return super().due(step) or step == self.schedule.end

    def gradients_ready(self) -> None:
        """Note |∂L/∂θ| of the active weights, if the update after this step asks for it."""
        self._slopes = {}
        if self.gradient_weight and self.due(self.steps + 1):
            for name, layer in self.layers.items():
                if (gradient := layer.weight.grad) is not None:
                    gradient = unscaled(self.optimizer, gradient.to_dense() if gradient.is_sparse else gradient)
                    self._slopes[name] = comparable(gradient.take(layer.active))

    def update(self, step: int) -> None:
        """Drop and grow."""
        super().update(step)
        self._slopes = {}

    def choice(self, name: str, layer: SparseLayer, fraction: float, step: int) -> Choice:
        """What one layer keeps and grows."""
        base = self.started[name]
        kept = self.strongest(layer, base)
        count = min(floor(fraction * base), layer.size - base)
        return name, (kept, layer.random_free(kept, count, self.stream("grow", step, name)))

    def strongest(self, layer: SparseLayer, count: int) -> Tensor:
        """The positions of the `count` active weights that matter most."""
        if layer.name not in self._slopes:
            return super().strongest(layer, count)
        active = layer.active
        importance = layer.magnitudes(active) + self.gradient_weight * self._slopes[layer.name]
        return active[largest(importance, count)]
