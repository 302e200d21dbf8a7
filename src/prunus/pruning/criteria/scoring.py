"""The seam between `prune` and its criteria: what a criterion is given, and what it gives back."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.pruning.left import Dropped, Left

#: An option of `prune` that not every criterion has a use for.
Option = Literal["batches", "loss", "generator"]


@dataclass(frozen=True)
class Scoring:
    """What a criterion scores.

    Attributes:
        model: the model, as the user gave it. A criterion leaves it as it was: parameters, buffers, gradients,
            modes and generators.
        weights: its prunable parameters.
        masks: what is kept so far, on the weights' devices: the scores are those of the network under these masks.
            What is scored where they are False does not count; it must not be NaN.
        batches: the data to score on, if the criterion uses data.
        loss: `loss(outputs, targets)`, if the criterion uses it.
        generator: where random numbers come from; None means torch's own.
    """

    model: nn.Module
    weights: Mapping[str, nn.Parameter]
    masks: Masks
    batches: Iterable[Any] | None = None
    loss: Callable[..., Tensor] | None = None
    generator: torch.Generator | None = None


class Criterion(Protocol):
    """What gives scores: one tensor of the parameter's shape for each of `weights`; larger means keep.

    `uses` names the options of `prune` that the criterion has a use for; of these, it says itself which it needs.
    A criterion may also say, as class attributes, what `prune` does unless told otherwise: `rounds` (how often to
    score), `schedule`, and `regrows` (whether a round chooses among all weights again, so that pruned ones may come
    back).
    """

    uses: ClassVar[frozenset[Option]]

    def __call__(self, scoring: Scoring) -> Mapping[str, Tensor]:
        """The scores."""
        ...


class Walk(Protocol):
    """A criterion at work on one model, round after round: what it needs in each round is made once."""

    def scores(self, left: Left) -> Mapping[str, Tensor]:
        """The scores of what is left (see `Left.of`), in the order of the parameters."""
        ...

    def drop(self, dropped: Dropped) -> None:
        """These positions of each parameter are pruned."""
        ...

    def change(self, masks: Masks) -> None:
        """The masks are these from now on. Asked only of criteria that let weights grow again."""
        ...


@runtime_checkable
class Walks(Protocol):
    """A criterion that can make something once for all rounds."""

    def begin(self, scoring: Scoring) -> Walk:
        """The work on one model, whose weights are all there under `scoring.masks`."""
        ...


def walk_of(criterion: Callable[[Scoring], Mapping[str, Tensor]], scoring: Scoring) -> Walk:
    """The criterion's own walk, or one that calls it anew in each round."""
    return criterion.begin(scoring) if isinstance(criterion, Walks) else Repeated(criterion, scoring)


class Repeated:
    """Any criterion as a walk: it is called anew in each round.

    Args:
        criterion: what is called.
        scoring: with all weights there. Where its batches are an iterator, they are kept as they are read.
    """

    def __init__(self, criterion: Callable[[Scoring], Mapping[str, Tensor]], scoring: Scoring) -> None:
        batches = _Reread(scoring.batches) if isinstance(scoring.batches, Iterator) else scoring.batches
        self._criterion, self._scoring = criterion, replace(scoring, batches=batches)

    def scores(self, left: Left) -> dict[str, Tensor]:
        """The scores of what is left."""
        given = self._scoring
        scoring = given if left.count == left.total else replace(given, masks=left.masks())
        return {name: left.of(name, t) for name, t in checked(self._criterion(scoring), given.weights).items()}

    def drop(self, dropped: Dropped) -> None:
        """Nothing is held from round to round."""

    def change(self, masks: Masks) -> None:
        """The masks of the next scores."""
        self._scoring = replace(self._scoring, masks=masks)


class Fixed:
    """The same scores in each round.

    Args:
        scores: of all weights.
    """

    def __init__(self, scores: Mapping[str, Tensor]) -> None:
        self._scores = scores

    def scores(self, left: Left) -> dict[str, Tensor]:
        """The scores of what is left."""
        return {name: left.of(name, tensor) for name, tensor in self._scores.items()}

    def drop(self, dropped: Dropped) -> None:
        """Nothing changes."""

    def change(self, masks: Masks) -> None:
        """Nothing changes."""


class _Reread:
    """An iterator that can be read again from its beginning; it is read no further than somebody did."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._rest = batches
        self._read: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        yield from self._read
        for batch in self._rest:
            self._read.append(batch)
            yield batch


def checked(scores: Mapping[str, Tensor], weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The scores in the order of the weights.

    Raises:
        Invalid: if a name or a shape differs.
    """
    for name in sorted(scores.keys() ^ weights.keys()):
        raise Invalid(f"only one of the scores and the prunable weights has {name!r}")
    for name, weight in weights.items():
        if scores[name].shape != weight.shape:
            shapes = f"{tuple(scores[name].shape)}; allowed: {tuple(weight.shape)}"
            raise Invalid(f"the scores of {name} are {shapes}")
    return {name: scores[name] for name in weights}
