"""Masks of a network that nobody has trained."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.core.seeds import generator
from prunus.data import DataSet
from prunus.pruning import CRITERIA, Criterion, Scoring, SynFlow, prune
from prunus.studies.cells import Cell
from prunus.studies.kinds.initialization.config import InitialScoring

#: How many examples are read at once.
READ = 256


def criterion_of(name: str, config: InitialScoring, data: DataSet) -> Criterion:
    """The criterion of that name, with the options of the study that it has."""
    kind: Any = CRITERIA[name]
    if kind is SynFlow:
        return SynFlow(inputs=example_of(data))
    known = {field.name for field in fields(kind)}
    said = {"per_class": config.per_class, "mode": config.mode}
    return kind(**{option: value for option, value in said.items() if option in known and value is not None})


def example_of(data: DataSet) -> Tensor:
    """One input of the network."""
    return torch.ones(1, *data.input_shape, device=data.train.images.device)


def batches_of(data: DataSet, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The training examples in an order of the seed's own, as the network takes them."""
    order = torch.randperm(len(data.train), generator=generator(seed, "scoring"))
    for part in order.split(READ):
        examples = data.train[part.to(data.train.labels.device)]
        yield data.normalise(examples.images), examples.labels


def options_of(criterion: Any, cell: Cell, data: DataSet) -> dict[str, Any]:
    """What `prune` gives the criterion beside the model: data and generator, where it has a use for them."""
    given: dict[str, Any] = {}
    if "batches" in criterion.uses and not isinstance(criterion, SynFlow):
        given["batches"] = batches_of(data, cell.seed)
    if "generator" in criterion.uses:
        given["generator"] = generator(cell.seed, "masks")
    return given


def scores_of(model: nn.Module, criterion: Criterion, cell: Cell, data: DataSet) -> Mapping[str, Tensor]:
    """The scores of the network with all its weights."""
    weights, full = prunable(model), Masks.full(model)
    return criterion(Scoring(model, weights, full, **options_of(criterion, cell, data)))


def found(
    model: nn.Module,
    criterion: Criterion | Callable[[Scoring], Mapping[str, Tensor]],
    cell: Cell,
    data: DataSet,
    *,
    exponent: float | None = None,
    keep: int | None = None,
    **more: Any,
) -> Masks:
    """The masks at a compression ratio of ten to the `exponent`, or with so many weights."""
    total = sum(weight.numel() for weight in prunable(model).values())
    keep = max(1, round(total / 10 ** (exponent or 0.0))) if keep is None else keep
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no weight is kept")  # it is what the study is about
        return prune(model, criterion, keep / total, **{**options_of(criterion, cell, data), **more})
