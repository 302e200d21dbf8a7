"""The kernels that write the largest: every instruction set against a stable sort, for layouts that defeat pivots."""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from prunus import kernels

if not kernels.available():
    pytest.skip("the C++ kernels were not built", allow_module_level=True)

MODULE: Any = kernels.native()
#: Around the widths of registers, what is partitioned at once, what always fits, blocks, and shares of threads.
SIZES = [1, 2, 15, 16, 17, 33, 511, 513, 700, 8191, 16385, 40_000, 200_003]


@pytest.fixture(params=MODULE.instruction_sets())
def native(request):
    before = MODULE.instruction_set()
    MODULE.use(request.param)
    yield MODULE
    MODULE.use(before)


def layouts(size: int) -> dict[str, np.ndarray]:
    """Scores in which the sample misleads, or ties are so many that they fit nowhere."""
    draw = np.random.default_rng(size)
    normal = draw.standard_normal(size).astype(np.float32)
    one_out = np.zeros(size, np.float32)
    one_out[size // 3] = -1e-45
    return {
        "no ties": normal,
        "ascending": np.sort(normal),
        "descending": np.sort(normal)[::-1].copy(),
        "all equal": np.full(size, -1.5, np.float32),
        "all zero but one": one_out,
        "two values": np.where(normal > 0, 1, -2).astype(np.float32),
        "few values": (2 * normal).round(),
        "half infinite": np.where(normal > 0, np.inf, normal).astype(np.float32),
        "tiny": (normal * 1e-41).astype(np.float32),
        "all but a few equal": np.where(np.arange(size) % 97 == 0, normal, 0.25).astype(np.float32),
        "in two clusters": (np.round(normal) + 1e-5 * normal).astype(np.float32),
    }


def kept(scores: np.ndarray, keep: int, absolute: bool) -> np.ndarray:
    falling = -(np.abs(scores) if absolute else scores)
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(falling, kind="stable")[:keep]] = True
    return mask


def written(native, scores, keep, absolute, threads=1, cuts=(), in_order=True):
    """What is written for the scores in parts, and what is returned."""
    weights = np.arange(1, scores.size + 1, dtype=np.float32)
    out = np.full(scores.size, np.nan, np.float32)
    parts = [np.split(array, cuts) for array in (scores, weights, out)]  # views
    returned = native.write_largest(*parts, keep, absolute, in_order, threads)
    return out, weights, returned


@pytest.mark.parametrize("size", SIZES)
def test_what_is_kept_is_what_a_stable_sort_keeps(native, size):
    keeps = sorted({0, 1, size // 10, size // 2, size - size // 50, size - 1, size})
    cuts = (size // 5, size // 5, size // 2)  # one part is empty
    for (name, scores), keep, absolute in product(layouts(size).items(), keeps, (True, False)):
        mask = kept(scores, keep, absolute)
        out, weights, (least, surplus) = written(native, scores, keep, absolute, cuts=cuts)
        assert np.array_equal(out, np.where(mask, weights, 0)), (name, keep, absolute)
        assert surplus == 0
        if 0 < keep < size:
            assert least == (np.abs(scores) if absolute else scores)[mask].min()


@pytest.mark.parametrize("threads", [2, 3, 1000])
def test_the_number_of_threads_changes_nothing(native, threads):
    for name, scores in layouts(400_001).items():
        for keep in (1000, 200_000, 390_000):
            alone, _, _ = written(native, scores, keep, True, cuts=(100_000,))
            together, _, _ = written(native, scores, keep, True, threads, cuts=(100_000,))
            assert np.array_equal(alone, together), (name, keep)


def test_out_of_order_all_ties_are_kept_and_counted(native):
    scores = np.array([1, -2, 3, 2, 2, 0], np.float32)
    out, _, returned = written(native, scores, 2, True, in_order=False)
    assert out.tolist() == [0, 2, 3, 4, 5, 0]
    assert returned == (2.0, 2)


def test_a_nan_anywhere_is_told_and_nothing_is_written(native):
    for size in (1, 7, 40, 1000, 20_000):
        for place, sign, absolute in product({0, size // 2, size - 1}, (1, -1), (True, False)):
            scores = np.zeros(size, np.float32)
            scores[place] = math.copysign(math.nan, sign)
            for keep in {0, 1, size // 2, size}:
                out, _, (_, surplus) = written(native, scores, keep, absolute)
                assert surplus == -1
                assert np.isnan(out).all()


@pytest.mark.parametrize("size", [0, 1, 17, 1000, 150_000])
def test_the_gradient_is_that_of_the_absolute_value_bit_for_bit(native, size):
    draw = torch.Generator().manual_seed(size)
    gradient, weights, scores = (torch.randn(size, generator=draw) for _ in range(3))
    scores[::5], scores[1::5], weights[::7] = 0.0, -0.0, 0.0
    for threads in (1, 2):
        out = torch.full((size,), math.nan)
        native.score_gradient(gradient, weights, scores, out, threads)
        wanted = gradient * weights * scores.sgn()
        assert torch.equal(out.view(torch.int32), wanted.view(torch.int32))


def test_what_does_not_fit_is_refused():
    a, b, double = np.zeros(4, np.float32), np.zeros(5, np.float32), np.zeros(4)
    strided = np.zeros(8, np.float32)[::2]
    rest = (True, True, 1)
    for lists in (([a], [b], [a]), ([a], [a], [b]), ([a, a], [a], [a]), ([a], [a], [])):
        with pytest.raises(ValueError, match=r"^arrays that belong together differ in size$"):
            MODULE.write_largest(*lists, 1, *rest)
    for keep in (-1, 5):
        with pytest.raises(ValueError, match=r"^keep is not between 0 and the number of scores$"):
            MODULE.write_largest([a], [a], [a], keep, *rest)
    for wrong in (double, strided):
        for place in range(3):
            lists = [[wrong if i == place else a] for i in range(3)]
            with pytest.raises(TypeError):
                MODULE.write_largest(*lists, 1, *rest)
        with pytest.raises(TypeError):
            MODULE.score_gradient(a, a, a, wrong, 1)
    with pytest.raises(ValueError, match="differ in size"):
        MODULE.score_gradient(a, a, a, b, 1)


@pytest.mark.parametrize("size", SIZES)
def test_positions_of_the_largest_are_those_of_a_stable_sort(native, size):
    for name, scores in layouts(size).items():
        for keep, absolute in product({0, 1, size // 30, size // 2, size - 1, size}, (True, False)):
            found = native.positions_of_largest(scores, keep, absolute, 1)
            assert found.dtype == np.int64
            assert np.array_equal(found, np.flatnonzero(kept(scores, keep, absolute))), (name, keep, absolute)


def test_positions_of_the_largest_are_refused_where_there_is_nan(native):
    scores = np.arange(40, dtype=np.float32)
    scores[17] = math.nan
    assert native.positions_of_largest(scores, 5, True, 1) is None
    with pytest.raises(ValueError, match="keep"):
        native.positions_of_largest(np.zeros(4, np.float32), 5, True, 1)


@pytest.mark.parametrize("size", SIZES)
def test_positions_of_bits_are_those_that_are_set(native, size):
    for share in (0.0, 0.03, 0.5, 1.0):
        bits = -(np.random.default_rng(size).random(size) < share).astype(np.int32)
        assert np.array_equal(native.positions_of_bits(bits.view(np.float32)), np.flatnonzero(bits))
