"""Floating-point operations of sparse training and of the network that it leaves, as the papers count them.

A step of training costs three products for each layer: the forward pass, the gradient to the activations, and the
gradient to the weights, each as many FLOPs as the forward pass. The first two are at the masks; which weights the third
is taken of is what methods differ in. With f_S and f_D the forward FLOPs of one sample, sparse and dense:

- a dense step 3 f_D; a step at the masks alone (static, SET, and between updates all the others) 3 f_S;
- one whose gradient is taken of all weights (SNFS at every step, RigL and GraNet at their updates) 2 f_S + f_D;
- one whose gradient is taken of a larger set B (Top-KAST) 2 f_S + f_B.

Evci et al., "Rigging the lottery: making all tickets winners", 2020, ICML, appendix. Their formula for RigL,
(3 f_S ΔT + 2 f_S + f_D) / (ΔT + 1), stands for ΔT ordinary steps and then one with the update, which in their code does
not count as a step. Here each step counts as it was taken: with an update at every ΔT-th, after it or in its place,
that is (3 f_S (ΔT − 1) + 2 f_S + f_D) / ΔT, and the steps after the last update cost 3 f_S.

One multiply-accumulate is two FLOPs. Not counted, by the papers' convention: choosing and moving masks (sorting,
random draws), biases, norms, activations, pooling, the loss, and the optimizer; nor products of activations with each
other (the scores of attention), which no mask makes cheaper. Nothing here says how fast a network runs: most kernels
multiply by the zeros too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from prunus.analysis.costs import Costs
from prunus.core.errors import Invalid, nearest
from prunus.sparse_training.record import Counts, Update, check_counts, is_whole

#: At which steps the gradient is taken of every weight of the masked layers, kept or not.
DenseGradients = Literal["never", "updates", "always"]
_DENSE: tuple[DenseGradients, ...] = ("never", "updates", "always")


class Trained(Protocol):
    """What is asked of a method of sparse training.

    One that takes the gradient of a larger set than that of its masks (Top-KAST) has also `gradient_counts`: how large
    that set is, by parameter name, or None.
    """

    #: At which steps the gradient is taken of every weight.
    dense_gradients: ClassVar[DenseGradients]

    @property
    def steps(self) -> int:
        """How many steps the optimizer has taken."""
        ...

    @property
    def started(self) -> Mapping[str, int]:
        """How many weights were kept at the beginning, by parameter name."""
        ...

    @property
    def updates(self) -> Sequence[Update]:
        """The topology updates made so far, in order."""
        ...


@dataclass(frozen=True)
class Flops:
    """FLOPs of one sample, sparse and dense.

    Attributes:
        inference: of the forward pass at the masks that stand now.
        dense_inference: of the dense network's.
        training: of one step, as the mean over all steps that were taken, each with as many samples.
        dense_training: of one step of the dense network: three times its forward pass.
    """

    inference: float
    dense_inference: float
    training: float
    dense_training: float

    @property
    def inference_share(self) -> float:
        """Sparse over dense FLOPs of inference."""
        return self.inference / self.dense_inference

    @property
    def training_share(self) -> float:
        """Sparse over dense FLOPs of a step of training, at equally many steps."""
        return self.training / self.dense_training

    def total(self, samples: int) -> float:
        """FLOPs of a whole training.

        Args:
            samples: how many the steps took in all: steps × batch size. One that is met again counts again.

        Raises:
            Invalid: if it is not a whole number of at least 0.
        """
        if not is_whole(samples, 0):
            raise Invalid(f"samples is {samples!r}; allowed: a whole number of at least 0")
        return self.training * samples


def flops(method: Trained, costs: Costs) -> Flops:
    """FLOPs of a training so far, and of the network that it has come to.

    A step has the masks that stood before it: that of an update, those that the update changed. Layers without a mask
    are dense.

    Args:
        method: a method of sparse training that has taken at least one step.
        costs: of its model, for inputs of the size that it is trained on: `prunus.analysis.costs(model, inputs=…)`.
            Only the layers' sizes and dense multiply-accumulates are read.

    Raises:
        Invalid: if no step has been taken, `costs` has no row for a layer of the method, fewer weights than it keeps,
            or no products at all; or if the method's records do not fit each other.
    """
    layers = _Layers(costs)
    spans = list(_spans(method, layers))
    dense = layers.forward({})
    spent = sum(length * _step(layers, kept, of) for length, kept, of in spans)
    now = method.updates[-1].kept if method.updates else method.started
    return Flops(layers.forward(now), dense, spent / method.steps, 3 * dense)


class _Layers:
    """Sizes of layers, and what the forward pass of one sample costs in each."""

    def __init__(self, costs: Costs) -> None:
        self._sizes = {layer.name: layer.parameters for layer in costs.layers}
        self._dense = {layer.name: layer.flops for layer in costs.layers}
        if not any(self._dense.values()):
            raise Invalid("costs has no multiply-accumulates; allowed: those of a model that multiplies by its weights")

    def forward(self, kept: Counts) -> float:
        """FLOPs of one sample, with so many weights kept; layers that are not named are dense."""
        return sum(flops * self._density(name, kept) for name, flops in self._dense.items())

    def check(self, what: str, kept: object) -> Counts:
        counts = check_counts(what, kept)
        for name, count in counts.items():
            if name not in self._sizes:
                raise Invalid(f"{what} has {name!r}, of which costs has no row; {nearest(name, self._sizes)}")
            if count > self._sizes[name]:
                raise Invalid(f"{what} has {count:,} weights of {name}; in costs it has {self._sizes[name]:,}")
        return counts

    def _density(self, name: str, kept: Counts) -> float:
        size = self._sizes[name]
        return kept.get(name, size) / size if size else 1.0


#: So many steps, the weights kept in them, and those that the gradient was taken of.
_Span = tuple[int, Counts, Counts]


def _step(layers: _Layers, kept: Counts, gradients_of: Counts) -> float:
    return 2 * layers.forward(kept) + layers.forward(gradients_of)


def _spans(method: Trained, layers: _Layers) -> Iterator[_Span]:
    """The training as stretches of equal steps, the step of each update by itself."""
    dense = method.dense_gradients
    if dense not in _DENSE:
        raise Invalid(f"dense_gradients is {dense!r}; allowed: {', '.join(_DENSE)}")
    if not is_whole(method.steps, 1):
        raise Invalid(f"steps is {method.steps!r}; allowed: at least one step taken")
    wider = getattr(method, "gradient_counts", None)
    if wider is not None:
        wider = layers.check("gradient_counts", wider)
    kept, done = layers.check("started", method.started), 0
    for update in method.updates:
        if not is_whole(update.step, done + 1) or update.step > method.steps:
            raise Invalid(
                f"an update is after step {update.step!r}; allowed: from {done + 1} to {method.steps}, in order"
            )
        of = _gradients_of(kept, wider, dense == "always")
        yield update.step - 1 - done, kept, of
        yield 1, kept, {} if dense == "updates" else of
        before, kept, done = kept, layers.check(f"the update after step {update.step}", update.kept), update.step
        for name in sorted(before.keys() ^ kept.keys()):
            raise Invalid(f"the update after step {update.step}: only one of kept and started has {name!r}")
    yield method.steps - done, kept, _gradients_of(kept, wider, dense == "always")


def _gradients_of(kept: Counts, wider: Counts | None, dense: bool) -> Counts:
    """The weights that the gradient is taken of, away from updates; layers that are not named are dense."""
    if dense or wider is None:
        return {} if dense else kept
    for name, count in kept.items():
        if wider.get(name, -1) < count:
            raise Invalid(
                f"gradient_counts has {wider.get(name)} weights of {name}; allowed: at least the {count:,} kept"
            )
    return wider
