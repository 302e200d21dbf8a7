"""GraSP: keep the weights that the gradient flows through."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.probing import Mode
from prunus.pruning.criteria.gradients import MaskedGradients
from prunus.pruning.criteria.saliency import check_options
from prunus.pruning.criteria.scoring import Option, Scoring
from prunus.pruning.examples import examples
from prunus.pruning.left import Dropped, Left


@dataclass(frozen=True)
class GraSP:
    """Scores are θ ⊙ H g, with the gradient g and the Hessian H of the loss of logits / temperature.

    Taking weight q away changes ‖g‖² by about −2 θ_q (H g)_q, so weights go first whose absence raises the norm of
    the gradient most, and the largest scores are kept. Once, and globally, as published: Wang, Zhang and Grosse,
    "Picking winning tickets before training by preserving gradient flow", 2020, ICLR. The paper writes the score
    with the other sign and removes the largest; an early release of the code of the SynFlow paper kept them. The
    author's code scores with BatchNorm as in training, which is the default here: in evaluation, as in the code of
    the SynFlow paper, a narrow VGG-11 trains to half the accuracy at a thirtieth of its weights. It also draws the
    linear layers anew first, which is not done here.

    Args:
        temperature: what logits are divided by. A model's own loss (Transformers) must be cross-entropy then, of the
            targets or of each token with the next. Default: 200.
        per_class: how many examples of each class to score on, as in `Saliency`; None is all. Default: 10.
        mode: "train" (the author's) or "eval", as in `Saliency`. Default: "train".
    """

    temperature: float = 200.0
    per_class: int | None = 10
    mode: Mode = "train"
    uses: ClassVar[frozenset[Option]] = frozenset({"batches", "loss"})

    def __post_init__(self) -> None:
        check_options(self.per_class, self.mode)
        number = isinstance(self.temperature, int | float) and not isinstance(self.temperature, bool)
        if not number or not 0 < self.temperature < float("inf"):
            raise Invalid(f"temperature is {self.temperature!r}; allowed: a number above 0")

    def __call__(self, scoring: Scoring) -> dict[str, Tensor]:
        """The scores at the weights under the masks, float32 (float64 where that is needed)."""
        walk = self.begin(scoring)
        walk.change(scoring.masks)
        return walk.scores(Left(scoring.masks))

    def begin(self, scoring: Scoring) -> "_Walk":
        """Reads the data once."""
        return _Walk(self, scoring)


class _Walk:
    def __init__(self, criterion: GraSP, scoring: Scoring) -> None:
        read = examples(scoring.model, scoring.batches, criterion.per_class, "GraSP")
        self._network = MaskedGradients(
            scoring.model, scoring.weights, read, scoring.loss, criterion.mode, criterion.temperature
        )

    def scores(self, left: Left) -> dict[str, Tensor]:
        def formed(name: str, product: Tensor) -> Tensor:
            return left.of(name, product) * left.of(name, self._network.values[name].detach())

        return self._network.scores(MaskedGradients.second, formed)

    def drop(self, dropped: Dropped) -> None:
        self._network.drop(dropped)

    def change(self, masks: Masks) -> None:
        self._network.become(masks)
