"""SNIP: keep the weights whose removal would change the loss most."""

from dataclasses import dataclass

from prunus.pruning.criteria.saliency import Form, Saliency


@dataclass(frozen=True)
class SNIP(Saliency):
    """Scores are |∂L/∂m| at the mask m = 1, which is |θ ⊙ ∂L/∂θ|; summed over batches first, absolute then.

    Once, and globally, as published: Lee, Ajanthan and Torr, "SNIP: single-shot network pruning based on connection
    sensitivity", 2019, ICLR. The paper scores on one batch of about 100 examples with BatchNorm as in training; the
    comparisons that came later use ten examples of each class with BatchNorm as in evaluation, which is the default
    here.

    Args:
        form: "absolute".
        per_class: as in `Saliency`. Default: 10.
        mode: as in `Saliency`; "train" is the paper's. Default: "eval".
    """

    form: Form = "absolute"
    per_class: int | None = 10
