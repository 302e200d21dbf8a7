"""Synaptic saliency: any score (∂R/∂θ) ⊙ θ, and the criteria that are cases of it."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from prunus.core.errors import Invalid, nearest
from prunus.core.masks import Masks
from prunus.core.probing import MODES, Mode
from prunus.pruning.criteria.gradients import MaskedGradients
from prunus.pruning.criteria.scoring import Option, Scoring
from prunus.pruning.examples import examples
from prunus.pruning.left import Dropped, Left

Form = Literal["signed", "negative", "absolute", "square"]

_FORMS = {"signed": lambda s: s, "negative": torch.neg_, "absolute": torch.abs_, "square": torch.square_}


@dataclass(frozen=True)
class Saliency:
    """Scores are a form of θ ⊙ ∂L/∂θ, where L is the loss that `prune` is given, summed over batches.

    Any scalar function of the outputs serves as the loss: `loss=lambda outputs, targets: outputs.sum()`. Pruned
    weights count as zero. Tanaka et al., "Pruning neural networks without any data by iteratively conserving
    synaptic flow", 2020, NeurIPS, gave the name, and the laws by which it is conserved (see
    `prunus.analysis.conservation`): they hold for the signed form.

    Args:
        form: "signed" (θ ∂L/∂θ); "negative" (−θ ∂L/∂θ, as skeletonization: Mozer and Smolensky, 1989, NeurIPS);
            "absolute" (as SNIP); "square" (the first-order Taylor criterion: Molchanov et al., "Importance
            estimation for neural network pruning", 2019, CVPR). Default: "signed".
        per_class: how many examples of each class to score on, the first in the batches (where targets are no class
            numbers, the first 256 examples). Default: None, all batches as they are.
        mode: "eval", in which BatchNorm uses its statistics (as the code of the SynFlow paper does for all criteria
            that it compares), or "train", in which it normalises by the batch. Its statistics are left alone in
            either, and dropout is off. Default: "eval".
    """

    form: Form = "signed"
    per_class: int | None = None
    mode: Mode = "eval"
    uses: ClassVar[frozenset[Option]] = frozenset({"batches", "loss"})

    def __post_init__(self) -> None:
        if self.form not in _FORMS:
            raise Invalid(f"form is {self.form!r}; {nearest(self.form, _FORMS)}")
        check_options(self.per_class, self.mode)

    def __call__(self, scoring: Scoring) -> dict[str, Tensor]:
        """The scores at the weights under the masks, float32 (float64 where that is needed)."""
        walk = self.begin(scoring)
        walk.change(scoring.masks)
        return walk.scores(Left(scoring.masks))

    def begin(self, scoring: Scoring) -> "SaliencyWalk":
        """Reads the data once."""
        return SaliencyWalk(self, scoring)


class SaliencyWalk:
    """A saliency criterion at work on one model."""

    def __init__(self, criterion: Saliency, scoring: Scoring) -> None:
        self._form = _FORMS[criterion.form]
        read = examples(scoring.model, scoring.batches, criterion.per_class, type(criterion).__name__)
        self._network = MaskedGradients(scoring.model, scoring.weights, read, scoring.loss, criterion.mode)

    def scores(self, left: Left) -> dict[str, Tensor]:
        """A form of θ ⊙ ∂L/∂θ of what is left."""

        def formed(name: str, gradient: Tensor) -> Tensor:
            return self._form(left.of(name, gradient) * left.of(name, self._network.values[name].detach()))

        return self._network.scores(MaskedGradients.first, formed)

    def drop(self, dropped: Dropped) -> None:
        """These positions are zero from now on."""
        self._network.drop(dropped)

    def change(self, masks: Masks) -> None:
        """The weights are those under these masks from now on."""
        self._network.become(masks)


def check_options(per_class: int | None, mode: str) -> None:
    """Refuse options of criteria that look at data.

    Raises:
        Invalid: naming the option.
    """
    if per_class is not None and (isinstance(per_class, bool) or not isinstance(per_class, int) or per_class < 1):
        raise Invalid(f"per_class is {per_class!r}; allowed: a whole number from 1, or None for all there are")
    if mode not in MODES:
        raise Invalid(f"mode is {mode!r}; allowed: {', '.join(MODES)}")
