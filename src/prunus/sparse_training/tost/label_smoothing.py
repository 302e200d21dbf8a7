"""Label smoothing for a part of the training."""

from torch import Tensor
from torch.nn import functional as F

from prunus.core.errors import Invalid
from prunus.sparse_training.tost.phase import Phase, check_number


class LabelSmoothing(Phase):
    """Cross-entropy with softened targets, and plain cross-entropy afterwards: call it as `loss(logits, labels)`.

    With C classes the target is 1 − a on the true class and a / (C − 1) on each other one. PyTorch spreads over all C
    classes, the true one too: this is its `label_smoothing` of a C / (C − 1).

    Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception architecture for computer vision", 2016,
    CVPR, spread over all classes as PyTorch does. For sparse networks: Jaiswal, Ma, Chen, Ding and Wang, "Training your
    sparse neural network better with any mask", 2022, ICML, with a = 0.1. Whether it ends early in the paper is not
    known to us; the authors' released code smooths in all epochs, which is the default here, and in the loss that it
    reports on test data too, which is not done here: evaluate with plain cross-entropy.

    Args:
        smoothing: a, at least 0 and at most (C − 1) / C. Default: 0.1, of the authors' code.
        total_steps: see `Phase`; it may be None if `until` is 1, and then smoothing goes on until `finish()`.
        until: see `Phase`. Default: 1.

    Raises:
        Invalid: if an option is outside its range.
    """

    def __init__(self, smoothing: float = 0.1, total_steps: int | None = None, *, until: float = 1.0) -> None:
        super().__init__(total_steps, until)
        check_number("smoothing", smoothing, lambda a: 0 <= a < 1, "a number in [0, 1)")
        if total_steps is None and until != 1:
            raise Invalid(f"until is {until!r} without total_steps; allowed: 1, or both")
        self.smoothing = float(smoothing)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch, a tensor without dimensions.

        Args:
            logits: [N, C], [N, C, ...] with labels [N, ...], or [..., C] with labels [...].
            labels: class numbers; −100 is left out.

        Raises:
            Invalid: if the logits tell too few classes apart for so much smoothing.
        """
        if labels.shape == logits.shape[:-1]:
            logits, labels = logits.flatten(0, -2), labels.flatten()
        if self.ended:
            return F.cross_entropy(logits, labels)
        return F.cross_entropy(logits, labels, label_smoothing=self._over_all(logits.shape[1]))

    def _over_all(self, classes: int) -> float:
        """What PyTorch spreads over all classes for the same targets."""
        if self.smoothing * classes > classes - 1:
            allowed = f"at most {(classes - 1) / classes:g} for {classes} classes"
            raise Invalid(f"smoothing is {self.smoothing:g}; allowed: {allowed}")
        return self.smoothing * classes / (classes - 1) if self.smoothing else 0.0

    def _begin(self) -> None:
        """Nothing is changed."""

    def _go_on(self) -> None:
        """Nothing changes until the end."""

    def _end(self) -> None:
        """Nothing is held."""

    def _settings(self) -> dict[str, float | int | None]:
        return {**super()._settings(), "smoothing": self.smoothing}
