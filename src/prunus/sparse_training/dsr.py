"""`DSR`: dynamic sparse reparameterization. One threshold for all layers; weights move to where most survive it."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from prunus.core.allocation import share
from prunus.core.errors import Invalid
from prunus.sparse_training.dynamic import Choice, Dynamic
from prunus.sparse_training.schedule import is_number


@dataclass(eq=False)
class DSR(Dynamic):
    """Drop every weight under a threshold that all layers share, grow as many at random, most where most are left.

    Mostafa and Wang, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
    reparameterization", 2019, ICML. With h the threshold and N = f · (number of all active weights), an update

    1. drops all active weights with |θ| < h, K in all;
    2. doubles h if K < (1 − δ) N, halves it if K > (1 + δ) N, for the next update;
    3. grows K weights at random, shared among the layers in proportion to the numbers that survived. They begin at 0.

    The number of all weights never changes: shares are rounded by largest remainder, and what does not fit into a layer
    goes to the others in proportion to theirs. Where no weight survived, shares go by the layers' sizes.

    h begins at 0.001 and δ is 0.1, as in the authors' code. There N is a number of weights (600 for LeNet-300-100)
    that stays as it is; here it is 10 % of them, which is about that at 2 % density, and stays too, by
    `decay="constant"`. The time between their updates follows a schedule of its own, to the end of the training; here
    updates are every 100 steps, up to three quarters of it.

    Args:
        fraction: f, in [0, 1]. Default: 0.1.
        decay: see `Dynamic`. Default: "constant".
        threshold: h at the first update, above 0. Afterwards the attribute is h as it stands.
        tolerance: δ, in [0, 1).

    The other arguments are those of `Dynamic` and `SparseTraining`, without `pattern`.
    """

    name: ClassVar[str] = "dsr"
    patterned: ClassVar[bool] = False

    _: KW_ONLY
    fraction: float = 0.1
    decay: str = "constant"
    threshold: float = 1e-3
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        if not is_number(self.threshold) or not 0 < self.threshold <= sys.float_info.max:
            raise Invalid(f"threshold is {self.threshold!r}; allowed: a number above 0")
        if not is_number(self.tolerance) or not 0 <= self.tolerance < 1:
            raise Invalid(f"tolerance is {self.tolerance!r}; allowed: a number in [0, 1)")
        super().__post_init__()

    def choices(self, fraction: float, step: int) -> Iterator[Choice]:
        """What each layer keeps and grows."""
        total = sum(layer.kept for layer in self.layers.values())
        kept = {}
        for name, layer in self.layers.items():
            active = layer.active
            kept[name] = active[layer.magnitudes(active) >= self.threshold]
        survived = {name: len(positions) for name, positions in kept.items()}
        dropped = total - sum(survived.values())
        free = {name: layer.size - survived[name] for name, layer in self.layers.items()}
        factor = correction(dropped, fraction * total, self.tolerance)
        self.threshold = self.threshold * factor or sys.float_info.min  # 0 would stay 0
        grown = share(survived, free, dropped)
        for name, layer in self.layers.items():
            yield name, (kept[name], layer.random_free(kept[name], grown[name], self.stream("grow", step, name)))

    def own_state(self) -> dict[str, Any]:
        """The threshold."""
        return {"threshold": self.threshold}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.threshold = float(state["threshold"])


def correction(dropped: int, target: float, tolerance: float) -> float:
    """What to multiply the threshold by."""
    if dropped < (1 - tolerance) * target:
        return 2.0
    return 0.5 if dropped > (1 + tolerance) * target else 1.0
