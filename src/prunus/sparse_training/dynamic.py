"""`Dynamic`: drop the weakest connections of each layer and grow as many others, every so many steps.

Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity inspired by network
science", 2018, Nature Communications, in the form of Evci et al., "Rigging the lottery: making all tickets winners",
2020, ICML: of the A active weights of a layer the k = ⌊f · A⌋ smallest are dropped, and k of those that are then
inactive (the just dropped among them) are grown.
"""

from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from math import floor
from typing import ClassVar, Literal

from torch import Tensor

from prunus.core.ranked import positions_of_largest
from prunus.sparse_training.base import SparseTraining
from prunus.sparse_training.layer import SparseLayer, comparable, largest_free
from prunus.sparse_training.pattern import top_of_rows
from prunus.sparse_training.schedule import UpdateSchedule

#: The name of a layer, and the positions of the weights that it keeps and grows.
Choice = tuple[str, tuple[Tensor, Tensor]]


@dataclass(eq=False)
class Dynamic(SparseTraining):
    """A sparse network whose topology is updated by a schedule; its number of weights stays.

    Args:
        total_steps: how many steps the optimizer takes in all.
        every: steps from one update to the next.
        until: the part of `total_steps` after which the topology stays, in (0, 1].
        fraction: of the active weights of each layer that is dropped and grown at first, in [0, 1].
        decay: how the fraction falls: "cosine" (to 0 at `until`), "constant", or "inverse-power".
        power: of "inverse-power", (1 − progress) ^ power.
    """

    _: KW_ONLY
    total_steps: int
    every: int = 100
    until: float = 0.75
    fraction: float = 0.3
    decay: str = "cosine"
    power: float = 3.0

    schedule: UpdateSchedule = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.schedule = UpdateSchedule(self.total_steps, self.every, self.until, self.fraction, self.decay, self.power)
        super().__post_init__()

    def stepped(self) -> None:
        """Update the topology where that is due."""
        if self.due(self.steps):
            self.update(self.steps)

    def due(self, step: int) -> bool:
        """Whether there is an update at `step`."""
        return self.schedule.due(step)

    def update(self, step: int) -> None:
        """Update the topology."""
        fraction = self.schedule.fraction_at(step)
        self.rewire(step, fraction, self.choices(fraction, step))

    def choices(self, fraction: float, step: int) -> Iterable[Choice]:
        """What each layer keeps and grows, one after the other; one that was frozen since stays as it is."""
        trained = (item for item in self.layers.items() if item[1].weight.requires_grad)
        return (self.choice(name, layer, fraction, step) for name, layer in trained)

    def choice(self, name: str, layer: SparseLayer, fraction: float, step: int) -> Choice:
        """What one layer keeps and grows."""
        count = floor(fraction * layer.kept)
        kept = self.strongest(layer, layer.kept - count)
        return name, (kept, self.grown(layer, kept, count, step))

    def strongest(self, layer: SparseLayer, count: int) -> Tensor:
        """The positions of the `count` active weights that are not dropped: those of the largest |θ|."""
        return layer.strongest(count)

    def grown(self, layer: SparseLayer, kept: Tensor, count: int, step: int) -> Tensor:
        """The positions of the `count` weights that are grown beside those `kept`; with a pattern as it needs them."""
        groups = self.groups(layer)
        if groups is None:
            return self.grown_anywhere(layer, kept, count, step)
        scores = self.growth(layer, step).index_fill_(0, kept, float("inf"))[groups]
        there = groups[top_of_rows(scores, layer.kept // len(groups))]
        return there[layer.free(kept)[there]]

    def grown_anywhere(self, layer: SparseLayer, kept: Tensor, count: int, step: int) -> Tensor:
        """The same where no pattern says how many each group has."""
        return largest_free(self.growth(layer, step), kept, count)

    def growth(self, layer: SparseLayer, step: int) -> Tensor:
        """The scores to grow by, [size], not negative; the largest are grown. A new tensor."""
        raise NotImplementedError


@dataclass(eq=False)
class ByGradient(Dynamic):
    """Connections grow where the gradient is largest: that of the loss in the weights that are not there.

    An update takes the place of a step of the optimizer: in it no weight moves but those that go or come, and moments
    stay. All gradients that were accumulated for it count.

    The gradient of all weights gets through to `parameter.grad` between the last step before an update and the update;
    clipping by norm, which then has no effect, sees it. Where a GradScaler skips that step, the next one is the update.
    """

    dense_gradients: ClassVar[Literal["never", "updates", "always"]] = "updates"

    _due_now: bool = field(init=False, repr=False, default=False)

    def begin(self) -> None:
        """Let all gradients through if the first step is an update."""
        self._look_ahead()

    def stepped(self) -> None:
        """Let all gradients through where the next step is an update."""
        self._look_ahead()

    def gradients_ready(self) -> None:
        """Update in place of this step, if that is due."""
        if not self._due_now:
            return
        self._let_through(False)
        self.update(self.steps + 1)
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None  # optimizers leave such a parameter, and its moments, as they are

    def choices(self, fraction: float, step: int) -> Iterator[Choice]:
        """What each layer keeps and grows; one without a gradient stays as it is."""
        for name, layer in self.layers.items():
            if layer.weight.grad is not None:
                yield self.choice(name, layer, fraction, step)

    def grown_anywhere(self, layer: SparseLayer, kept: Tensor, count: int, step: int) -> Tensor:
        """Where the gradient is largest; it is of no use afterwards, and written to."""
        if not count:
            return kept.new_empty(0)
        gradient = self._gradient(layer).index_fill_(0, kept, 0.0)
        found = positions_of_largest(gradient, count, absolute=True)
        some = bool(gradient[found].all())
        return found if some else super().grown_anywhere(layer, kept, count, step)  # else kept ones are among the zeros

    def growth(self, layer: SparseLayer, step: int) -> Tensor:  # noqa: ARG002
        """|∂L/∂θ|."""
        return comparable(self._gradient(layer))

    def _gradient(self, layer: SparseLayer) -> Tensor:
        """The gradient, [size]: a view where it can be."""
        assert layer.weight.grad is not None
        gradient = layer.weight.grad
        return (gradient.to_dense() if gradient.is_sparse else gradient).reshape(-1)

    def _look_ahead(self) -> None:
        self._let_through(self.due(self.steps + 1))

    def _let_through(self, dense: bool) -> None:
        self._due_now = dense
        for layer in self.layers.values():
            layer.held.keep.dense = dense
