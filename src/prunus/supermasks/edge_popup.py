"""Edge-popup: the highest-ranked edges of a random network."""

from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.supermasks.layer import MaskedWeight
from prunus.supermasks.method import check_flag, uniform_scores
from prunus.supermasks.ranked import Ranked
from prunus.supermasks.through import Through


@dataclass(frozen=True)
class EdgePopup(Ranked):
    """Keeps the weights with the largest |score|; each score learns as if its weight were kept.

    With ŵ = w ⊙ h, h the indicator of the top fraction of |s|, the scores get ∂L/∂s = sign(s) ⊙ w ⊙ ∂L/∂ŵ, dropped
    entries too. Scores start in U(−1/√fan_in, 1/√fan_in), as in the authors' code.

    Ramanujan, Wortsman, Kembhavi, Farhadi and Rastegari, "What's hidden in a randomly weighted neural network?", 2020,
    CVPR. The paper's text ranks positive scores, its code |s|, which is the default here. The paper's density is
    layerwise and constant; global scope and a density that falls step by step are those of Sreenivasan et al., "Rare
    gems: finding lottery tickets at initialization", 2022, NeurIPS, where they repair most of what edge-popup loses
    below 5 %. The authors' settings: SGD 0.1 with momentum 0.9 and weight decay 1e-4 on the scores, cosine to 0, 100
    epochs at batch 128.

    Args:
        density: see `Ranked`; the paper's figure peaks near 0.5.
        scope: see `Ranked`.
        schedule: see `Ranked`.
        steps: see `Ranked`.
        start: see `Ranked`.
        signed: whether the scores themselves are ranked, in place of their absolute values. Default: False.
    """

    signed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("signed", self.signed)

    @property
    def absolute(self) -> bool:  # type: ignore[override]
        """Whether absolute values are ranked."""
        return not self.signed

    def begin(self, weight: Tensor, generator: torch.Generator, /) -> Tensor:
        """Uniform scores."""
        return uniform_scores(weight, generator)

    def forward(self, layer: MaskedWeight, weight: Tensor) -> Tensor:
        """The kept weights."""
        layer.supermask.refresh_if_stale(layer)
        return Through.apply(layer.scores, weight, layer.effective, self.absolute)  # type: ignore[return-value]
