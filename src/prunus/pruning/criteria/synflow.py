"""SynFlow: keep the weights that synaptic flow goes through. No data, and no layer collapses."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunus.analysis.flow import Flow
from prunus.analysis.inputs import example_of
from prunus.analysis.linearised import NORMS, Norm
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.pruning.criteria.scoring import Option, Scoring
from prunus.pruning.examples import check_batches
from prunus.pruning.left import Dropped, Left

#: Flow as a whole, and scores that are kept, outside this range may have parts that 32 bits cannot hold.
SMALL, LARGE = 1e-30, 1e35


@dataclass(frozen=True)
class SynFlow:
    """Scores are |θ| ⊙ ∂R/∂|θ|, R = 1ᵀ f(1; |θ ⊙ m|): the flow through each weight when ones go in.

    In 100 rounds with an exponential schedule, globally, as published: Tanaka, Kunin, Yamins and Ganguli, "Pruning
    neural networks without any data by iteratively conserving synaptic flow", 2020, NeurIPS. Each layer that all
    flow passes carries the same sum of scores, so it keeps a weight as long as there are as many weights as layers.
    A layer beside a shortcut has no such share, nor has a shortcut: it may be emptied (see `protect` of `prune`).
    So may the blocks of transformers, each of which stands beside the residual stream.

    The paper defines the flow for layers, convolutions, BatchNorm at initialisation, pooling and ReLU. What the rest
    of a network does (attention, other norms, other activations, gates, embeddings) is said in
    `prunus.analysis.linearised`; biases are sources of flow, as in the authors' code. Scores are computed in 32
    bits and, where these would overflow or vanish, in 64; the authors' code uses 32.

    A United States patent on the method is on record (12406185, filed in 2021 by its authors); ask whom you must
    before you use it commercially. Prunus never chooses SynFlow by itself.

    Args:
        inputs: an example of what the model takes: a tensor, a tuple of tensors or a mapping of names; ones of the
            shapes of its first row go in (integers as they are). Default: found out from the model, where
            Transformers or timm say it, or its first layer takes an image or a vector of a usual size. `batches=`
            of `prune` serves as well: the shapes of the first one.
        norm: "scale": normalisation multiplies by a constant, |γ| / √(var + ε) for BatchNorm; "identity": it does
            nothing. Default: "scale".
        biases: whether biases are sources of flow. Default: True.
        dtype: the type to compute in. Default: None, as said above.
    """

    inputs: Any = field(default=None, compare=False)
    norm: Norm = "scale"
    biases: bool = True
    dtype: torch.dtype | None = None
    uses: ClassVar[frozenset[Option]] = frozenset({"batches"})
    rounds: ClassVar[int] = 100
    schedule: ClassVar[str] = "exponential"

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise Invalid(f"norm is {self.norm!r}; allowed: {', '.join(NORMS)}")
        if self.dtype not in (None, torch.float32, torch.float64):
            raise Invalid(f"dtype is {self.dtype!r}; allowed: torch.float32, torch.float64 or None")

    def __call__(self, scoring: Scoring) -> dict[str, Tensor]:
        """The scores of the network under the masks, float32 or float64."""
        return self.begin(scoring).scores(Left(scoring.masks))

    def begin(self, scoring: Scoring) -> "_Walk":
        """Makes the absolute values of the weights once."""
        return _Walk(self, scoring)


class _Walk:
    def __init__(self, criterion: SynFlow, scoring: Scoring) -> None:
        self._criterion, self._model, self._weights = criterion, scoring.model, scoring.weights
        self._inputs = example_of(scoring.model, _given(criterion, scoring))
        double = any(weight.dtype == torch.float64 for weight in scoring.weights.values())
        self._flow = self._hold(criterion.dtype or (torch.float64 if double else torch.float32), scoring.masks)

    def scores(self, left: Left) -> dict[str, Tensor]:
        """The flow through what is left.

        Raises:
            Invalid: if there is none, or it is not finite or negative in 64 bits.
        """
        found, flow = self._pass(left)
        if self._criterion.dtype is None and self._dtype != torch.float64 and not _fits(found, flow, left):
            self._flow = self._hold(torch.float64, None)
            found, flow = self._pass(left)
        _check(found, flow, left, self._dtype)
        return found

    def drop(self, dropped: Dropped) -> None:
        """These positions carry no flow from now on."""
        for name, positions in dropped:
            self._flow.drop(name, positions)

    def change(self, masks: Masks) -> None:
        """The flow is that under these masks from now on."""
        self._flow = self._hold(self._dtype, masks)

    def _pass(self, left: Left) -> tuple[dict[str, Tensor], float]:
        found: dict[str, Tensor | None] = dict.fromkeys(self._weights)

        def keep(name: str, weight: Tensor, gradient: Tensor) -> None:
            found[name] = left.of(name, gradient).mul_(left.of(name, weight))

        flow = self._flow.run(keep)
        return {n: left.zeros(n, self._dtype) if s is None else s for n, s in found.items()}, flow

    def _hold(self, dtype: torch.dtype, masks: Masks | None) -> Flow:
        self._dtype = dtype
        own = self._criterion
        before = None if masks is not None else self._flow.weights
        flow = Flow(
            self._model, self._inputs, weights=self._weights, masks=masks, dtype=dtype, norm=own.norm, biases=own.biases
        )
        for name, weight in (before or {}).items():
            flow.weights[name].copy_(weight)
        return flow


def _given(criterion: SynFlow, scoring: Scoring) -> Any:
    if criterion.inputs is not None:
        return criterion.inputs, None  # a pair alone would be inputs and targets
    if scoring.batches is None:
        return None
    check_batches(scoring.batches)
    for batch in scoring.batches:
        return batch
    raise Invalid("batches is empty; SynFlow needs one batch, for its shapes, or none at all")


def _fits(found: dict[str, Tensor], flow: float, left: Left) -> bool:
    """Whether no part of the scores is near the ends of what 32 bits hold."""
    if not SMALL < flow < LARGE:
        return left.count == 0
    for scores in found.values():
        if scores.numel() and not float(scores.amax()) < float("inf"):
            return False
        if scores.numel() and float(scores.amin()) < SMALL and bool(((scores > 0) & (scores < SMALL)).any()):
            return False
    return True


def _check(found: dict[str, Tensor], flow: float, left: Left, dtype: torch.dtype) -> None:
    bits = 64 if dtype == torch.float64 else 32
    more = "" if bits == 64 else "; dtype=torch.float64 holds more"
    if not flow < float("inf"):
        raise Invalid(f"the synaptic flow is {flow}, in {bits} bits: look for NaN or very large weights{more}")
    if not flow > 0 and left.count == left.total:
        raise Invalid(
            f"no synaptic flow reaches the outputs, in {bits} bits: each path from the inputs meets a layer of zeros, "
            f"or an operation that is no sum of products{more}"
        )
    for name, scores in found.items():
        if scores.numel() and float(scores.amin()) < 0:
            raise Invalid(f"the synaptic flow of {name} is negative: its outputs are subtracted somewhere, or the like")
