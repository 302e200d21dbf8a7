"""Gem-Miner: scores in [0, 1], rounded, with the lowest frozen out on the way."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid, check_density
from prunus.core.masks import Masks
from prunus.core.select import select_count
from prunus.supermasks.engine import supermask_of
from prunus.supermasks.layer import MaskedWeight, Whole
from prunus.supermasks.method import Method, check_positive
from prunus.supermasks.through import Through


@dataclass(frozen=True)
class GemMiner(Method):
    """Keeps the weights with p > 0.5 that are still flagged; every so often the lowest p lose their flag, for good.

    Scores p start in U(0, 1) and are clamped to [0, 1] after each step. With ŵ = w ⊙ q ⊙ 1[p > 0.5] they get ∂L/∂p =
    w ⊙ q ⊙ ∂L/∂ŵ. At each of N events the lowest p of all layers together lose their flag q, so that the number of
    flags falls geometrically and is exactly round(density · n) after the last. What is learned is the mask of flagged
    weights with p > 0.5, at most that dense; `GemMiner.flags(model)` gives all flagged ones, which is what the authors
    fine-tune below 50 %.

    The paper's penalty λ Σ p² on the scores is the optimizer's own L2: `weight_decay = 2λ` in SGD or Adam (it also
    shrinks scores that have lost their flag, which changes nothing). The authors use 1e-4 for ResNet-20 at 1.44 %.

    Sreenivasan, Sohn, Yang, Grinde, Nagle, Wang, Xing, Lee and Papailiopoulos, "Rare gems: finding lottery tickets at
    initialization", 2022, NeurIPS: signed Kaiming constant weights, SGD 0.1 with momentum 0.9, cosine, 150 epochs, an
    event every 5 epochs. The authors' code drops all that tie with the lowest; here the count is exact. Freezing goes
    on as scheduled where fewer weights are kept already, as in the paper.

    Args:
        density: fraction of the weights that keep their flag in the end, in (0, 1]; 1 freezes nothing.
        steps: of the optimizer in all, E epochs of them. Not needed where density is 1.
        every: steps from one event to the next, T epochs of them; there are N = ⌊(steps − 1) / every⌋ events.
        lowest: whether the lowest p lose their flag; False drops the highest, as a sanity check. Default: True.
    """

    density: float = 0.05
    steps: int | None = None
    every: int | None = None
    lowest: bool = True

    def __post_init__(self) -> None:
        check_density(self.density)
        if self.density == 1:
            return
        check_positive("steps", self.steps)
        check_positive("every", self.every)
        if self.events < 1:
            raise Invalid(f"every is {self.every} with steps {self.steps}; allowed: fewer than steps")

    @property
    def target(self) -> float:
        """The density of the flags in the end."""
        return self.density

    @property
    def events(self) -> int:
        """How often weights lose their flag."""
        return 0 if self.density == 1 or not (self.steps and self.every) else (self.steps - 1) // self.every

    def flagged_after(self, event: int, total: int) -> int:
        """How many of `total` weights are flagged after so many events."""
        return round(total * self.density ** (event / self.events)) if self.events else total

    def check(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Refuse a density that keeps no weight."""
        total = sum(weight.numel() for weight in weights.values())
        if self.flagged_after(self.events, total) < 1:
            raise Invalid(f"density is {self.density!r}, which keeps none of {total:,} weights; allowed: more")

    def begin(self, weight: Tensor, generator: torch.Generator, /) -> Tensor:
        """Uniform scores in [0, 1]."""
        draws = torch.empty(weight.shape).uniform_(generator=generator)
        return torch.empty_like(weight, requires_grad=False).copy_(draws)

    def join(self, layer: MaskedWeight) -> None:
        """All weights are flagged."""
        layer.register_buffer("flags", torch.ones_like(layer.weight, dtype=torch.bool))

    def stepped(self, supermask: Whole) -> None:
        """Clamp the scores, and at an event take flags away."""
        for layer in supermask.layers.values():
            assert layer.scores is not None
            layer.scores.clamp_(0, 1)
        event, over = divmod(supermask.step_count, self.every or 1)
        if not over and event <= self.events:
            self._freeze(supermask, event)

    def forward(self, layer: MaskedWeight, weight: Tensor) -> Tensor:
        """The kept weights; only flagged ones learn."""
        layer.supermask.refresh_if_stale(layer)
        return Through.apply(layer.scores, weight, layer.effective, False, layer.flags)  # type: ignore[return-value]

    def mask(self, layer: MaskedWeight) -> Tensor:
        """Where the score rounds to 1 and the flag is there."""
        assert layer.scores is not None
        return (layer.scores.detach() > 0.5) & layer.flags

    @staticmethod
    def flags(model: nn.Module) -> Masks:
        """The weights of `model` that still have their flag: `prunus.bake(model, masks)` takes them as masks.

        Raises:
            Invalid: if the model has no supermask of this method.
        """
        learned = supermask_of(model)
        if not isinstance(learned.method, GemMiner):
            raise Invalid(f"the supermask is of {type(learned.method).__name__}; only GemMiner has flags")
        return Masks({name: layer.flags for name, layer in learned.layers.items()})

    def _freeze(self, supermask: Whole, event: int) -> None:
        layers = supermask.layers
        total = sum(layer.flags.numel() for layer in layers.values())
        sign = 1 if self.lowest else -1
        scores = {name: sign * layer.learned.detach() for name, layer in layers.items()}
        flags = Masks({name: layer.flags for name, layer in layers.items()})
        for name, mask in select_count(scores, self.flagged_after(event, total), within=flags).items():
            layers[name].flags.copy_(mask)
