"""`SNFS`: sparse networks from scratch, or sparse momentum. Layers whose gradients are large get more weights."""

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from math import floor, inf
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from prunus.core.allocation import share
from prunus.core.errors import Invalid
from prunus.sparse_training.dynamic import Choice, Dynamic
from prunus.sparse_training.hooks import unscaled
from prunus.sparse_training.layer import SparseLayer, comparable, largest_free
from prunus.sparse_training.schedule import is_number

#: The part of a layer's free positions that may be grown at once, as long as other layers have room.
MOST = 0.99
#: The decay of the average of squared gradients: Adam's β₂.
SQUARES = 0.999


@dataclass(eq=False)
class SNFS(Dynamic):
    """Drop the smallest weights of each layer, grow those of the largest momentum, in the layers where it is large.

    Dettmers and Zettlemoyer, "Sparse networks from scratch: faster training without losing performance", 2019, arXiv.
    M is an exponential average of the gradient, of all weights. At an update

    1. the ⌊f · A⌋ of the smallest |θ| among the A active weights of each layer go: R weights in all;
    2. R is shared among the layers in proportion to the mean |M| over the weights that were active; a layer takes at
       most 99 % of its free positions, and the others what is over;
    3. in each layer so many weights of the largest |M| come. They begin at 0.

    Every 100 steps, f falls from 0.5 by a cosine to 0 at three quarters of the training. The authors update after each
    epoch, and f falls to 0.005 at the end. Their shares are rounded up and what is over is spread evenly, so that the
    number of weights wanders, and they correct it by a running average; here shares are exact, what is over goes to
    the others in proportion to theirs, and the number of all weights never changes. Their code may also drop less in
    layers that are more than 80 % dense. It takes M from the optimizer: of Adam m / (√v + 1e-8), see `normalise`.
    Here the optimizer knows nothing of inactive weights, and M is kept beside it.

    **Memory:** M takes as much as the weights, `normalise` as much again. The gradient of all weights gets through to
    `parameter.grad` until the optimizer's step; clipping by norm sees it.

    Args:
        fraction: see `Dynamic`. Default: 0.5.
        smoothing: β in M ← β M + (1 − β) gradient, in [0, 1).
        normalise: divide M by √V + 1e-8, V the average of the squared gradient with β = 0.999, as the authors do under
            Adam.

    The other arguments are those of `Dynamic` and `SparseTraining`, without `pattern`.

    Attributes:
        averages: M by name, of the weights' shapes.
        squares: V by name, if `normalise`.
    """

    name: ClassVar[str] = "snfs"
    dense_gradients: ClassVar[Literal["never", "updates", "always"]] = "always"
    patterned: ClassVar[bool] = False

    _: KW_ONLY
    fraction: float = 0.5
    smoothing: float = 0.9
    normalise: bool = False

    averages: dict[str, Tensor] = field(init=False, repr=False, default_factory=dict)
    squares: dict[str, Tensor] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not is_number(self.smoothing) or not 0 <= self.smoothing < 1:
            raise Invalid(f"smoothing is {self.smoothing!r}; allowed: a number in [0, 1)")
        super().__post_init__()

    def begin(self) -> None:
        """Let all gradients through."""
        for name, layer in self.layers.items():
            layer.held.keep.dense = True
            for averages in self._kept.values():
                averages.setdefault(name, torch.zeros_like(layer.weight, requires_grad=False))

    def gradients_ready(self) -> None:
        """Average the gradients, and leave the optimizer those of the active weights."""
        for name, layer in self.layers.items():
            if (gradient := layer.weight.grad) is None:
                continue
            gradient = unscaled(self.optimizer, gradient.to_dense() if gradient.is_sparse else gradient)
            self.averages[name] = averaged(self.averages[name], gradient, self.smoothing)
            if self.normalise:
                self.squares[name] = averaged(self.squares[name], gradient.square(), SQUARES)
            layer.held.keep.clear_gradient(layer.weight)

    def choices(self, fraction: float, step: int) -> Iterator[Choice]:  # noqa: ARG002
        """What each layer keeps and grows: how much, by the means of all."""
        means = {name: float(self.momentum(layer)[layer.active].mean()) for name, layer in self.layers.items()}
        counts = {name: floor(fraction * layer.kept) for name, layer in self.layers.items()}
        free = {name: layer.size - layer.kept + counts[name] for name, layer in self.layers.items()}
        quotas = shared(means, free, sum(counts.values()))
        for name, layer in self.layers.items():
            kept = self.strongest(layer, layer.kept - counts[name])
            yield name, (kept, largest_free(self.momentum(layer), kept, quotas[name]))

    def momentum(self, layer: SparseLayer) -> Tensor:
        """|M|, or |M| / (√V + 1e-8), of all weights of a layer: a new tensor [size]."""
        average = self.averages[layer.name]
        if self.normalise:
            average = average / (self.squares[layer.name].sqrt() + 1e-8)
        return comparable(average.reshape(-1).to(layer.weight.device))

    def own_state(self) -> dict[str, Any]:
        """The averages."""
        return {
            f"{kind}/{name}": tensor.clone(memory_format=torch.contiguous_format)
            for kind, averages in self._kept.items()
            for name, tensor in averages.items()
        }

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        for kind, averages in self._kept.items():
            for name in self.layers:
                averages[name].copy_(state[f"{kind}/{name}"])

    @property
    def _kept(self) -> dict[str, dict[str, Tensor]]:
        """What is averaged."""
        return {"average": self.averages, "square": self.squares} if self.normalise else {"average": self.averages}


def shared(means: Mapping[str, float], free: Mapping[str, int], count: int) -> dict[str, int]:
    """`count` new weights shared in proportion to `means`, exactly; at most 99 % of what is `free` where that will do.

    Means that say nothing (all 0, or one infinite) share by what is free.
    """
    caps = {name: floor(MOST * room) for name, room in free.items()}
    means = {name: mean if mean > 0 else 0.0 for name, mean in means.items()}  # an empty layer's is NaN
    most = max(means.values())
    weights = {name: int(2**53 * (mean / most)) if 0 < most < inf else 0 for name, mean in means.items()}
    return share(weights, caps if sum(caps.values()) >= count else free, count)


def averaged(average: Tensor, value: Tensor, smoothing: float) -> Tensor:
    """The average with one value more, smoothing · average + (1 − smoothing) · value; it is written to."""
    return average.to(value.device).mul_(smoothing).add_(value, alpha=1 - smoothing)
