"""The largest of many scores, written out at once as masked weights: what a mask that follows its scores needs a step.

In float32 on a CPU the C++ kernels read the scores to find the smallest that is kept, and once more together with the
weights to write what is kept; other tensors there take `prunus.core.largest`. On an accelerator nothing waits for the
device: every tensor has a shape that is known beforehand, and nothing is sorted.
"""

from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.nn import Parameter

from prunus.core.errors import Invalid
from prunus.core.largest import largest, widest
from prunus.kernels import native


def write_largest(
    scores: Sequence[Tensor], weights: Sequence[Tensor], outs: Sequence[Tensor], keep: int, *, absolute: bool
) -> None:
    """Write into each of `outs` its weight where the score is among the `keep` largest of all scores, else +0.

    Ties go by position: the order of the tensors, then the row-major order in each. Both zeros are one score;
    infinities are legal.

    Args:
        scores: real numbers, of any shapes.
        weights: for each of the scores a tensor of its shape, on its device.
        outs: for each of the weights a tensor of its shape and type, that shares no memory with the others.
        keep: how many, from 0 to the number of scores.
        absolute: whether the scores are compared by their absolute values.

    Raises:
        Invalid: if a score on a CPU is NaN; nothing is written then. On an accelerator NaN is not looked for, since
            that would wait for the device.
    """
    _check(scores, weights, outs, keep)
    if _on_cpu(scores) and (module := native()):
        rows = [_lying(*tensors) for tensors in zip(scores, weights, outs, strict=True)]
        arrays = [row for row in rows if row is not None]
        if rows and len(arrays) == len(rows):
            _by_kernel(module, arrays, scores, outs, keep, absolute)
            return
    with torch.no_grad():
        masks = masks_of_largest(scores, keep, absolute=absolute)
        for mask, weight, out in zip(masks, weights, outs, strict=True):
            torch.where(mask, weight, weight.new_zeros(()), out=out)


@torch.no_grad()
def masks_of_largest(scores: Sequence[Tensor], keep: int, *, absolute: bool) -> list[Tensor]:
    """New bool tensors, True at the same entries that `write_largest` keeps.

    Raises:
        Invalid: if a score on a CPU is NaN.
    """
    _check(scores, scores, scores, keep)
    devices = {tensor.device for tensor in scores}
    if len(devices) == 1 and not _on_cpu(scores):
        return masks_without_waiting(scores, keep, absolute=absolute)
    if any(tensor.isnan().any() for tensor in scores if tensor.is_cpu):
        raise Invalid(_nan(scores))
    return largest([tensor.abs() for tensor in scores] if absolute else scores, keep)


@torch.no_grad()
def positions_of_largest(scores: Tensor, keep: int, *, absolute: bool) -> Tensor:
    """The row-major positions of the `keep` largest scores, int64 and ascending; of equal ones the first.

    Args:
        scores: real numbers, of any shape; NaN counts as 0.
        keep: how many, from 0 to the number of scores.
        absolute: whether the scores are compared by their absolute values.
    """
    if scores.dtype == torch.float32 and scores.is_cpu and scores.is_contiguous() and (module := native()):
        if not 0 <= keep <= scores.numel():
            raise ValueError(f"keep is {keep} of {scores.numel()}")
        found = module.positions_of_largest(scores.detach().numpy(), keep, absolute, torch.get_num_threads())
        if found is not None:
            return torch.from_numpy(found)
    if scores.is_floating_point():
        scores = scores.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    mask = masks_of_largest([scores], keep, absolute=absolute)[0]
    return positions_in(mask)


def positions_in(mask: Tensor) -> Tensor:
    """The row-major positions at which `mask` is True, int64 and ascending."""
    if mask.is_cpu:  # where NumPy takes a third of the time
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.reshape(-1).nonzero().squeeze(1)


@torch.no_grad()
def masks_without_waiting(scores: Sequence[Tensor], keep: int, *, absolute: bool) -> list[Tensor]:
    """The same by operators that are only queued on a device: no number comes to the host, and no shape depends on one.

    Args:
        scores: at least one; all on one device.
        keep: how many, from 0 to the number of scores.
        absolute: whether the scores are compared by their absolute values.
    """
    dtype = widest({tensor.dtype for tensor in scores})
    flat = torch.cat([tensor.reshape(-1).to(dtype) for tensor in scores])
    if absolute:
        flat = flat.abs()
    kept = _first_largest(flat, keep)
    parts = kept.split([tensor.numel() for tensor in scores])
    return [part.view(tensor.shape) for part, tensor in zip(parts, scores, strict=True)]


def score_gradient(gradient: Tensor, weight: Tensor, scores: Tensor, *, absolute: bool) -> Tensor:
    """The gradient in the scores: `gradient · weight`, by the sign of the score too if `absolute`; 0 at a score of 0.

    A constant: not to be differentiated again.

    Args:
        gradient: that in the masked weight, of the weight's shape.
        weight: the weight before it is masked.
        scores: of the weight's shape.
        absolute: whether the scores are compared by their absolute values.
    """
    if absolute and not torch.compiler.is_compiling() and _on_cpu([scores]) and (module := native()):
        out = torch.empty_like(scores)
        if arrays := _lying(gradient, weight, scores, out):
            module.score_gradient(*arrays, torch.get_num_threads())
            return out
    with torch.no_grad():
        found = gradient * weight
        return found * scores.sgn() if absolute else found


def _first_largest(flat: Tensor, keep: int) -> Tensor:
    """True at the `keep` largest entries, of equal ones the first."""
    size = flat.numel()
    if keep in (0, size):
        return torch.full_like(flat, bool(keep), dtype=torch.bool)
    # the smallest that is kept or the largest that is not: whichever needs fewer entries
    if 2 * keep <= size:
        cut = flat.topk(keep, sorted=False).values.amin()
    else:
        cut = flat.topk(size - keep, largest=False, sorted=False).values.amax()
    above, ties = flat > cut, flat == cut
    wanted = keep - above.sum()
    return above | (ties & (ties.cumsum(0) <= wanted))


def _check(scores: Sequence[Tensor], weights: Sequence[Tensor], outs: Sequence[Tensor], keep: int) -> None:
    size = sum(tensor.numel() for tensor in scores)
    if not 0 <= keep <= size:
        raise ValueError(f"keep is {keep} of {size}")
    for score, weight, out in zip(scores, weights, outs, strict=True):
        if not score.shape == weight.shape == out.shape:
            raise ValueError(f"scores are {[*score.shape]}, weights {[*weight.shape]} and outs {[*out.shape]}")


def _on_cpu(tensors: Sequence[Tensor]) -> bool:
    return all(tensor.is_cpu for tensor in tensors)


def _lying(*tensors: Tensor) -> tuple[np.ndarray, ...] | None:
    """The memory of tensors of one shape as arrays, if all are dense float32 on the CPU and their entries lie alike."""
    for tensor in tensors:
        if tensor.dtype != torch.float32 or not tensor.is_cpu or type(tensor) not in (Tensor, Parameter):
            return None
    if not all(tensor.is_contiguous() for tensor in tensors):
        first = tensors[0]
        order = sorted(range(first.ndim), key=first.stride, reverse=True)
        tensors = tuple(tensor.permute(order) for tensor in tensors)
        if not all(tensor.is_contiguous() for tensor in tensors):
            return None
    return tuple((tensor.detach() if tensor.requires_grad else tensor).numpy() for tensor in tensors)


def _by_kernel(
    module: ModuleType,
    arrays: list[tuple[np.ndarray, ...]],
    scores: Sequence[Tensor],
    outs: Sequence[Tensor],
    keep: int,
    absolute: bool,
) -> None:
    in_order = all(tensor.is_contiguous() for tensor in scores)
    lists = map(list, zip(*arrays, strict=True))
    value, surplus = module.write_largest(*lists, keep, absolute, in_order, torch.get_num_threads())
    if surplus < 0:
        raise Invalid(_nan(scores))
    increment_version(outs)  # so that autograd notices, as after any write in place
    if surplus:
        with torch.no_grad():
            _clear_last(scores, outs, value, surplus, absolute)


def _clear_last(scores: Sequence[Tensor], outs: Sequence[Tensor], value: float, surplus: int, absolute: bool) -> None:
    """Set the outputs to 0 at the last `surplus` of the scores that are `value`, in row-major order."""
    for score, out in zip(reversed(scores), reversed(outs), strict=True):
        ties = ((score.abs() if absolute else score) == value).nonzero()
        last = ties[max(0, len(ties) - surplus) :]
        if len(last):  # a number without dimensions would be set even so
            out[tuple(last.unbind(1))] = 0
        surplus -= len(last)
        if not surplus:
            return


def _nan(scores: Sequence[Tensor]) -> str:
    place = next(i for i, tensor in enumerate(scores) if tensor.isnan().any())
    return f"scores[{place}] has NaN in it; allowed: numbers and infinities"
