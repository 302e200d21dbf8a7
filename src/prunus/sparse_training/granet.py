"""`GraNet`: gradual pruning with neuroregeneration. The network gets sparser, and what it loses may grow back."""

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from math import floor
from typing import ClassVar

from torch import nn

from prunus.core.allocation import global_
from prunus.core.errors import Invalid, check_density
from prunus.core.masks import Masks
from prunus.core.schedules import cubic
from prunus.sparse_training.beginning import given_masks, random_masks
from prunus.sparse_training.dynamic import ByGradient, Choice
from prunus.sparse_training.schedule import check_part


@dataclass(eq=False)
class GraNet(ByGradient):
    """Prune by magnitude to a falling density, then drop and regrow as many weights in each layer.

    Liu et al., "Sparse training via boosting pruning plasticity with neuroregeneration", 2021, NeurIPS. An update

    1. keeps the round(d · n) weights of the largest |θ| of all layers together, d the density that is due;
    2. drops in each layer the ⌊f · A⌋ of the smallest |θ| among the A that are left, and grows as many of the largest
       |∂L/∂θ|, among all that are then inactive; a weight that goes and comes at once keeps its value.

    d falls by Zhu and Gupta's cubic law (see `prunus.core.schedules.cubic`) from `initial` to `density`, over the first
    half of the training; one more update is made at the end of that, if none is due there. Afterwards each layer keeps
    its number of weights. f falls by a cosine from 0.5 to 0 at `until`. The masks of the beginning are random, by the
    Erdős–Rényi kernel; with `initial=1` the network begins dense.

    In the paper updates are every 1,000 steps on CIFAR and every 4,000 on ImageNet; here every 100, as for the other
    methods and by default in the authors' code. There f falls to 0.005 at the end of the training, an update follows
    the optimizer's step and does not replace it, pruning is over after epoch 110 by default, and thresholds drop all
    ties; here counts are exact.

    Args:
        density: the fraction of the prunable weights that is active at the end, in (0, 1].
        start: masks to begin with; their density is then `initial`.
        initial: the density at the beginning, from `density` to 1.
        prune_until: the part of `total_steps` after which the density stays, above 0 and below `until`.
        fraction: see `Dynamic`. Default: 0.5.

    The other arguments are those of `Dynamic` and `SparseTraining`, without `pattern`.
    """

    name: ClassVar[str] = "granet"
    patterned: ClassVar[bool] = False

    _: KW_ONLY
    initial: float = 0.5
    prune_until: float = 0.5
    fraction: float = 0.5

    def __post_init__(self) -> None:
        check_part("prune_until", self.prune_until)
        super().__post_init__()

    def first_masks(self, weights: Mapping[str, nn.Parameter], axes: Mapping[str, int]) -> Masks:
        """Random masks of the density `initial`, unless there are others."""
        if not 0 < self.pruned < self.schedule.end:
            raise Invalid(
                f"prune_until is {self.prune_until}, step {self.pruned} of {self.total_steps}; "
                f"allowed: steps 1 to {self.schedule.end - 1}, before updates end"
            )
        final, initial = check_density(self.density), check_density(self.initial, "initial")  # type: ignore[arg-type]
        if self.start is None:
            masks = random_masks(weights, axes, initial, self.scope, None, self.stream)
        else:
            masks = given_masks(self.start, weights, axes, None)
            self.initial = initial = masks.density
        if initial < final:
            raise Invalid(f"density is {final} and initial {initial:g}; allowed: an initial density that is no lower")
        return masks

    @property
    def pruned(self) -> int:
        """The step from which on the density stays."""
        return round(self.prune_until * self.total_steps)

    def due(self, step: int) -> bool:
        """Whether there is an update at `step`: as for all, and one where pruning ends."""
        return super().due(step) or step == self.pruned

    def density_at(self, step: int) -> float:
        """The density that is due at `step`."""
        assert self.density is not None
        return cubic(min(step / self.pruned, 1), self.density, self.initial)

    def choices(self, fraction: float, step: int) -> Iterator[Choice]:
        """What each layer keeps and grows; one without a gradient grows none."""
        active = {name: layer.magnitudes(layer.active) for name, layer in self.layers.items()}
        size = sum(layer.size for layer in self.layers.values())
        there = sum(layer.kept for layer in self.layers.values())
        counts = global_(active, min(round(self.density_at(step) * size), there))
        for name, layer in self.layers.items():
            count = floor(fraction * counts[name]) if layer.weight.grad is not None else 0
            # the strongest of a layer are the same before it is pruned and after
            kept = self.strongest(layer, counts[name] - count)
            yield name, (kept, self.grown_anywhere(layer, kept, count, step))
