"""`GMP`: gradual magnitude pruning. Dense at first; the smallest weights go, a few at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from math import ceil
from typing import ClassVar

from torch import Tensor, nn

from prunus.core.allocation import Allocation, allot
from prunus.core.errors import Invalid, check_density
from prunus.core.masks import Masks
from prunus.core.schedules import cubic
from prunus.core.select import select
from prunus.sparse_training.base import SparseTraining
from prunus.sparse_training.beginning import given_masks
from prunus.sparse_training.dynamic import Choice
from prunus.sparse_training.layer import SparseLayer, comparable
from prunus.sparse_training.pattern import top_of_rows
from prunus.sparse_training.schedule import check_count, check_part, is_number


@dataclass(eq=False)
class GMP(SparseTraining):
    """Prune by magnitude while training, to a density that falls by a cubic law.

    Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017, arXiv.
    Between the steps t₀ and t₁ the density falls as final + (initial − final) · (1 − (t − t₀) / (t₁ − t₀))³; every 100
    steps, and at t₁, the round(density · n) weights of the largest |θ| stay. In the paper each layer has the same
    density; by default here all layers are compared together ("global"), which is how the method is mostly used now.
    The scheme of Gale, Elsen and Hooker, "The state of sparsity in deep neural networks", 2019, arXiv, is close to
    "uniform-first-last".

    A weight that is dropped stays dropped. In the authors' code it keeps its last value, and comes back where others
    have become smaller.

    With a pattern every layer has the same density, whatever the scope: ⌈density · width⌉ weights of each group of
    `width`, and at the end as many as the pattern says.

    Args:
        density: the fraction of the prunable weights that is active at the end, in (0, 1].
        total_steps: how many steps the optimizer takes in all.
        every: steps from one update to the next.
        since: the part of `total_steps` at which pruning begins, t₀, in [0, `until`).
        until: the part of `total_steps` at which it ends, t₁, in (0, 1].
        initial: the density at the beginning, from `density` to 1: the largest |θ| then. Default: 1, dense.
        scope: see `prunus.select`. Default: "global".
        start: masks to begin with; their density is then `initial`.

    The other arguments are those of `SparseTraining`.
    """

    name: ClassVar[str] = "gmp"

    _: KW_ONLY
    total_steps: int
    every: int = 100
    since: float = 0.0
    until: float = 0.75
    initial: float = 1.0
    scope: str | Allocation = "global"

    def __post_init__(self) -> None:
        for name in ("total_steps", "every"):
            check_count(name, getattr(self, name))
        check_part("until", self.until)
        if not is_number(self.since) or not self.since >= 0 or self.first >= self.last:
            raise Invalid(
                f"since is {self.since!r} and until {self.until} of {self.total_steps} steps: the schedule ends before "
                "it begins; allowed: since from 0, and at least a step before until"
            )
        super().__post_init__()

    @property
    def first(self) -> int:
        """The step until which the density stays at `initial`."""
        return round(self.since * self.total_steps)

    @property
    def last(self) -> int:
        """The step of the last update."""
        return round(self.until * self.total_steps)

    def due(self, step: int) -> bool:
        """Whether there is an update at `step`."""
        return step == self.last or (self.first < step < self.last and (step - self.first) % self.every == 0)

    def density_at(self, step: int) -> float:
        """The density that is due at `step`."""
        assert self.density is not None
        progress = (step - self.first) / (self.last - self.first)
        return cubic(min(max(progress, 0), 1), self.density, self.initial)

    def first_masks(self, weights: Mapping[str, nn.Parameter], axes: Mapping[str, int]) -> Masks:
        """The largest weights, as many as `initial` says; by default all."""
        final, initial = check_density(self.density), check_density(self.initial, "initial")  # type: ignore[arg-type]
        if self._pattern and (self.start is not None or initial != 1):
            raise Invalid(f"initial is {initial}, or start is given; allowed with a pattern: initial 1, without start")
        scores = {name: comparable(weight.detach()) for name, weight in weights.items()}
        if self.start is None:
            masks = select(scores, initial, self.scope)
        else:
            masks = given_masks(self.start, weights, axes, None)
            self.initial = initial = masks.density
        if initial < final:
            raise Invalid(f"density is {final} and initial {initial:g}; allowed: an initial density that is no lower")
        # what the end cannot have is refused now
        if self._pattern is None:
            allot(self.scope, scores, round(final * masks.total))
        else:
            for name, weight in weights.items():
                self._pattern.each(name, self._pattern.width(name, weight, axes[name]), final)
        return masks

    def stepped(self) -> None:
        """Prune where that is due."""
        if not self.due(self.steps):
            return
        before = sum(layer.kept for layer in self.layers.values())
        size = sum(layer.size for layer in self.layers.values())
        density = min(self.density_at(self.steps), before / size)
        chosen = self._by_scope(density) if self._pattern is None else self._by_groups(density)
        self.rewire(self.steps, max(0.0, 1 - round(density * size) / before), chosen)

    def _by_scope(self, density: float) -> Iterator[Choice]:
        scores = {name: comparable(layer.weight.detach()) for name, layer in self.layers.items()}
        for name, mask in select(scores, density, self.scope, within=self.masks).items():
            yield name, only(mask.reshape(-1).nonzero().squeeze(1))

    def _by_groups(self, density: float) -> Iterator[Choice]:
        for name, layer in self.layers.items():
            groups = self.groups(layer)
            assert groups is not None
            scores = comparable(layer.weight.detach().reshape(-1)).masked_fill_(~layer.mask.reshape(-1), -1.0)
            kept = top_of_rows(scores[groups], self._each(layer, groups.shape[1], density))
            yield name, only(groups[kept].sort().values)

    def _each(self, layer: SparseLayer, width: int, density: float) -> int:
        assert self._pattern is not None
        assert self.density is not None
        final = self._pattern.each(layer.name, width, self.density)
        there = layer.kept * width // layer.size
        return min(there, max(final, ceil(density * width - 1e-6)) if density > self.density else final)


def only(kept: Tensor) -> tuple[Tensor, Tensor]:
    """The choice to keep some weights and grow none."""
    return kept, kept.new_empty(0)
