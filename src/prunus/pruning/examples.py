"""What criteria that look at data are shown: so many examples of each class, in batches of equal size."""

from collections import Counter
from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid
from prunus.core.probing import Batch, Probe, tensors_in, untouched

#: How many examples are put through a model at once.
AT_ONCE = 256


def examples(model: nn.Module, batches: Iterable[Any] | None, per_class: int | None, criterion: str) -> list[Batch]:
    """The batches to score on, read once.

    Args:
        model: what they are for.
        batches: as a user gave them.
        per_class: how many examples of each class to take, the first that come; reading ends when each class that
            the model tells apart has as many. Where targets are no class numbers, or for None, all batches are
            taken as they are.
        criterion: who asks, for messages.

    Raises:
        Invalid: if there are none.
    """
    if batches is None:
        raise Invalid(f"{criterion} needs batches=: an iterable of (inputs, targets), or of mappings for the model")
    read = (Batch.read(batch) for batch in batches)
    found = list(read) if per_class is None else _of_each_class(model, read, per_class)
    if not found:
        raise Invalid(f"batches is empty; {criterion} needs at least one batch")
    return found


def _of_each_class(model: nn.Module, batches: Iterable[Batch], per_class: int) -> list[Batch]:
    seen: Counter[int] = Counter()
    taken: list[Batch] = []
    wanted: int | None = None
    for batch in batches:
        if not _has_classes(batch.targets):
            return [batch, *batches]
        wanted = _classes(model, batch) * per_class if wanted is None else wanted
        rows = [i for i, label in enumerate(batch.targets.tolist()) if _take(seen, label, per_class)]
        if rows:
            taken.append(batch.mapped(_rows(torch.tensor(rows), len(batch.targets))))
        if seen.total() >= wanted:
            break
    return _joined(taken)


def _has_classes(targets: Any) -> bool:
    return isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point()


def _take(seen: Counter[int], label: int, most: int) -> bool:
    if seen[label] >= most:
        return False
    seen[label] += 1
    return True


def _classes(model: nn.Module, batch: Batch) -> int:
    """How many classes the model's outputs tell apart."""
    with untouched(model), torch.no_grad():
        outputs = tensors_in(Probe(model, {})(batch.mapped(lambda t: t[:1])))
    return outputs[0].shape[-1] if outputs and outputs[0].dim() > 1 else 2


def _rows(rows: Tensor, size: int) -> Any:
    return lambda tensor: tensor[rows.to(tensor.device)] if tensor.dim() and len(tensor) == size else tensor


def _joined(batches: list[Batch]) -> list[Batch]:
    """The same examples in as few batches of equal size as hold at most `AT_ONCE` each."""
    size = sum(len(batch.targets) for batch in batches)
    if len(batches) > 1 and all(_like(batch, batches[0]) for batch in batches):
        batches = [_concatenated(batches)]
    if len(batches) != 1 or size <= AT_ONCE:
        return batches
    parts = torch.arange(size).tensor_split(ceil(size / AT_ONCE))
    return [batches[0].mapped(_rows(part, size)) for part in parts]


def _like(batch: Batch, other: Batch) -> bool:
    return _shapes(batch) == _shapes(other)


def _shapes(batch: Batch) -> Any:
    shapes: list[Any] = [sorted(batch.kwargs)]
    batch.mapped(lambda tensor: shapes.append((tensor.dtype, tensor.shape[1:])) or tensor)
    return shapes


def _concatenated(batches: list[Batch]) -> Batch:
    def join(*values: Any) -> Any:
        first = values[0]
        if isinstance(first, Tensor):
            return torch.cat(values) if first.dim() else first
        if isinstance(first, Mapping):
            return {name: join(*(value[name] for value in values)) for name in first}
        return type(first)(join(*parts) for parts in zip(*values, strict=True)) if isinstance(first, tuple) else first

    args = join(*(batch.args for batch in batches))
    kwargs = join(*(dict(batch.kwargs) for batch in batches))
    return Batch(args, kwargs, join(*(batch.targets for batch in batches)))
