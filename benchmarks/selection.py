"""Exact selection against `torch.kthvalue` and `torch.sort`: one thread, process time, equal masks.

Keeps the largest fifth of 1e6 and of 1e7 float32 values, in one tensor and in many. The rivals get the values
joined in one tensor; where there are many, joining them and cutting the mask up again counts as their work. Rounds
are interleaved and the medians are compared, so a change of the machine's pace falls on all.

Run: python benchmarks/selection.py
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from prunus.core.select import select_count

Scores = dict[str, Tensor]
Masked = dict[str, Tensor]


def ours(scores: Scores, keep: int) -> Masked:
    """Prunus."""
    return dict(select_count(scores, keep))


def kthvalue(scores: Scores, keep: int) -> Masked:
    """The threshold by `torch.kthvalue`; ties by position."""
    joined = _joined(scores)
    threshold = joined.kthvalue(len(joined) - keep + 1).values
    mask = joined > threshold
    missing = keep - int(mask.count_nonzero())
    mask[(joined == threshold).nonzero().squeeze(1)[:missing]] = True
    return _cut(mask, scores)


def sort(scores: Scores, keep: int) -> Masked:
    """The first of a stable sort."""
    joined = _joined(scores)
    mask = torch.zeros(len(joined), dtype=torch.bool)
    mask[joined.sort(descending=True, stable=True).indices[:keep]] = True
    return _cut(mask, scores)


def _joined(scores: Scores) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in scores.values()]) if len(scores) > 1 else scores["0"]


def _cut(mask: Tensor, scores: Scores) -> Masked:
    return dict(zip(scores, mask.split([tensor.numel() for tensor in scores.values()]), strict=True))


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(count: int, tensors: int, rounds: int) -> None:
    """One row of the table; stops if the masks differ."""
    values = torch.randn(count, generator=torch.Generator().manual_seed(0)).abs()
    scores = {f"{index}": piece.clone() for index, piece in enumerate(values.chunk(tensors))}
    keep = count // 5
    ways = (ours, kthvalue, sort)
    masks = [way(scores, keep) for way in ways]
    for other in masks[1:]:
        assert all(torch.equal(masks[0][name], other[name]) for name in scores), "the masks differ"
    times: dict[str, list[float]] = {way.__name__: [] for way in ways}
    for turn in range(rounds):
        for way in ways if turn < 2 else ways[:2]:  # a sort is slow, and far off
            times[way.__name__].append(seconds(lambda way=way: way(scores, keep)))
    ms = {name: 1000 * median(of) for name, of in times.items()}
    times_of = [f"{ms[way.__name__]:9.2f}" for way in ways]
    ratios = [f"{ms[way.__name__] / ms['ours']:8.1f}×" for way in ways[1:]]
    print(f"{count:>10,} {tensors:>8}", *times_of, *ratios, flush=True)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    heads = ["ours, ms", "kthvalue", "sort", "kth/ours", "sort/ours"]
    print(f"{'values':>10} {'tensors':>8}", *(f"{head:>9}" for head in heads))
    for count, tensors in ((10**6, 1), (10**6, 50), (10**7, 1), (10**7, 50), (10**7, 500)):
        compare(count, tensors, rounds=9)


if __name__ == "__main__":
    main()
