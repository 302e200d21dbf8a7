"""What criteria that look at data are shown: so many examples of each class, in batches of equal size."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice, pairwise
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid
from prunus.core.probing import Batch, Probe, tensors_in, untouched

#: How many examples are put through a model at once; and how many are taken in all where targets are no classes.
AT_ONCE = 256
#: Batches without a length may be endless: they are given up after so many examples that were of no use, …
PATIENCE = 10_000
#: … or, where all are asked for, refused after so many batches.
MOST = 100_000


def examples(model: nn.Module, batches: Iterable[Any] | None, per_class: int | None, criterion: str) -> list[Batch]:
    """The batches to score on, read once, and no further than needed.

    Args:
        model: what they are for.
        batches: as a user gave them.
        per_class: how many examples of each class to take, the first that come; reading ends when each class that
            the model tells apart has as many. Where targets are no class numbers, the first batches are taken as
            they are, up to 256 examples. For None, all batches are, as they are. Where batches have a length, no
            more are read.
        criterion: who asks, for messages.

    Raises:
        Invalid: if there are none, or no end of them, or they are no batches.
    """
    if batches is None:
        raise Invalid(f"{criterion} needs batches=: an iterable of (inputs, targets), or of mappings for the model")
    check_batches(batches)
    length = _length(batches)
    read = (found for batch in islice(batches, length) if _size(found := Batch.read(batch)))
    found = _all(read, length) if per_class is None else _of_each_class(model, read, per_class, length is not None)
    if not found:
        raise Invalid(f"batches is empty; {criterion} needs at least one batch")
    return found


def check_batches(batches: Any) -> None:
    """Refuse one batch in the place of several, and what cannot be read.

    Raises:
        Invalid: saying so.
    """
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise Invalid(f"batches is of type {type(batches).__name__}; allowed: an iterable of batches, such as [batch]")


def _length(batches: Iterable[Any]) -> int | None:
    try:
        return len(batches)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):  # also of a loader that has __len__, over data that have none
        return None


def _all(batches: Iterator[Batch], length: int | None) -> list[Batch]:
    found = list(islice(batches, MOST if length is None else length))
    if next(batches, None) is not None:
        raise Invalid(f"batches goes on after {MOST:,} batches, and all there are were asked for (per_class=None)")
    return found


def _of_each_class(model: nn.Module, batches: Iterator[Batch], per_class: int, has_end: bool) -> list[Batch]:
    seen: Counter[int] = Counter()
    taken: list[Batch] = []
    wanted, in_vain = 0, 0
    for batch in batches:
        if not _has_classes(batch.targets):
            return list(_first(chain([batch], batches)))
        wanted = wanted or _classes(model, batch) * per_class
        rows = [i for i, label in enumerate(batch.targets.tolist()) if _take(seen, label, per_class)]
        in_vain = 0 if rows else in_vain + len(batch.targets)
        if rows:
            taken.append(_of_rows(batch, torch.tensor(rows)))
        if seen.total() >= wanted or (in_vain >= PATIENCE and not has_end):
            break
    return _joined(taken)


def _has_classes(targets: Any) -> bool:
    return isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point()


def _take(seen: Counter[int], label: int, most: int) -> bool:
    if seen[label] >= most:
        return False
    seen[label] += 1
    return True


def _first(batches: Iterable[Batch]) -> Iterator[Batch]:
    size = 0
    for batch in batches:
        yield batch
        size += _size(batch)
        if size >= AT_ONCE:
            return


def _size(batch: Batch) -> int:
    return max([len(tensor) for tensor in _inputs(batch) if tensor.dim()], default=1)


def _classes(model: nn.Module, batch: Batch) -> int:
    """How many classes the model's outputs tell apart."""
    double = any(p.dtype == torch.float64 for p in model.parameters())
    probe = Probe(model, {}, torch.float64 if double else torch.float32)
    with untouched(model), torch.no_grad():
        outputs = tensors_in(probe(_of_rows(batch, torch.tensor([0]))))
    return max(2, outputs[0].shape[-1]) if outputs and outputs[0].dim() > 1 else 2


def _of_rows(batch: Batch, rows: Tensor) -> Batch:
    size = len(batch.targets)
    if not any(tensor.dim() and len(tensor) == size for tensor in _inputs(batch)):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in _inputs(batch)) or "none"
        raise Invalid(
            f"batches: no input has a row for each of {size} targets (shapes: {shapes}); "
            "per_class=None takes batches as they are"
        )
    return batch.mapped(_rows(rows, size))


def _rows(rows: Tensor | slice, size: int) -> Any:
    def change(tensor: Tensor) -> Tensor:
        there = rows.to(tensor.device) if isinstance(rows, Tensor) else rows
        return tensor[there] if tensor.dim() and len(tensor) == size else tensor

    return change


def _inputs(batch: Batch) -> list[Tensor]:
    """The tensors that go into the model, without the targets."""
    found: list[Tensor] = []
    Batch(batch.args, {n: v for n, v in batch.kwargs.items() if v is not batch.targets}).mapped(_noted(found))
    return found


def _noted(found: list[Tensor]) -> Any:
    return lambda tensor: found.append(tensor) or tensor


def _joined(batches: list[Batch]) -> list[Batch]:
    """The same examples in as few batches of equal size as hold at most `AT_ONCE` each."""
    size = sum(len(batch.targets) for batch in batches)
    if len(batches) > 1 and all(_shapes(batch) == _shapes(batches[0]) for batch in batches):
        batches = [_concatenated(batches)]
    if len(batches) != 1 or size <= AT_ONCE:
        return batches
    count = ceil(size / AT_ONCE)
    bounds = [size * part // count for part in range(count + 1)]
    return [batches[0].mapped(_rows(slice(*pair), size)) for pair in pairwise(bounds)]


def _shapes(batch: Batch) -> Any:
    return sorted(batch.kwargs), [(tensor.dtype, tensor.shape[1:]) for tensor in _inputs(batch)]


def _concatenated(batches: list[Batch]) -> Batch:
    args = _join(*(batch.args for batch in batches))
    kwargs = _join(*(dict(batch.kwargs) for batch in batches))
    return Batch(args, kwargs, _join(*(batch.targets for batch in batches)))


def _join(*values: Any) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(values) if first.dim() else first
    if isinstance(first, Mapping):
        return {name: _join(*(value[name] for value in values)) for name in first}
    if isinstance(first, tuple | list):
        parts = [_join(*parts) for parts in zip(*values, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    return first
