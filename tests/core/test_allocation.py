"""Allocations against their invariants, and against densities worked out from the papers' formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.core.allocation import (
    ALLOCATIONS,
    er,
    erk,
    global_,
    lamp,
    lamp_scores,
    share,
    uniform,
    uniform_first_last,
)
from prunus.core.errors import Invalid

SHAPES = st.lists(
    st.lists(st.integers(1, 9), min_size=0, max_size=4).map(tuple) | st.just((0, 3)), min_size=1, max_size=5
)
quick = settings(deadline=None, max_examples=80)


def draw_scores(shapes: list, seed: int = 0) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return {f"{index}": torch.randn(shape, generator=draws) for index, shape in enumerate(shapes)}


def densities(counts: dict[str, int], scores: dict[str, torch.Tensor]) -> list[float]:
    return [counts[name] / tensor.numel() for name, tensor in scores.items()]


LENET = draw_scores([(300, 784), (100, 300), (10, 100)])
#: ResNet-50's 54 weights: the stem; in each stage blocks of 1×1, 3×3, 1×1, and a shortcut; the output.
RESNET50 = draw_scores(
    [(64, 3, 7, 7)]
    + [
        shape
        for stage, blocks in enumerate((3, 4, 6, 3))
        for block in range(blocks)
        for width in [64 * 2**stage]
        for entry in [(64 if stage == 0 else 2 * width) if block == 0 else 4 * width]
        for shape in [
            (width, entry, 1, 1),
            (width, width, 3, 3),
            (4 * width, width, 1, 1),
            *([(4 * width, entry, 1, 1)] if block == 0 else []),
        ]
    ]
    + [(1000, 2048)]
)


@pytest.mark.parametrize("name", sorted(set(ALLOCATIONS) - {"uniform-first-last"}))
@given(shapes=SHAPES, data=st.data())
@quick
def test_counts_add_up_and_fit(name: str, shapes: list, data: st.DataObject) -> None:
    scores = draw_scores(shapes)
    keep = data.draw(st.integers(0, sum(t.numel() for t in scores.values())))
    counts = ALLOCATIONS[name](scores, keep)
    assert list(counts) == list(scores)
    assert sum(counts.values()) == keep
    assert all(0 <= counts[n] <= t.numel() for n, t in scores.items())


@given(rows=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=6), data=st.data())
@quick
def test_shares_are_proportional_except_where_there_is_no_room(rows: list, data: st.DataObject) -> None:
    weights = {f"{i}": weight for i, (weight, _) in enumerate(rows)}
    room = {f"{i}": size for i, (_, size) in enumerate(rows)}
    keep = data.draw(st.integers(0, sum(room.values())))
    counts = share(weights, room, keep)
    assert sum(counts.values()) == keep
    assert all(0 <= counts[name] <= room[name] for name in room)
    # one scale for all that have room left over: counts differ from scale × weight by less than one
    open_ones = [name for name in room if counts[name] < room[name] and weights[name]]
    low = max((counts[n] - 1) / weights[n] for n in open_ones) if open_ones else 0
    high = min((counts[n] + 1) / weights[n] for n in open_ones) if open_ones else 0
    assert low <= high
    for name in room:  # what is full would be at least as full by the common scale
        if counts[name] == room[name] and weights[name] and open_ones:
            assert room[name] <= high * weights[name] + 1


@given(shapes=SHAPES, data=st.data())
@quick
def test_uniform_is_within_one_weight_of_the_density(shapes: list, data: st.DataObject) -> None:
    scores = draw_scores(shapes)
    total = sum(t.numel() for t in scores.values())
    keep = data.draw(st.integers(0, total))
    for name, count in uniform(scores, keep).items():
        assert abs(count - scores[name].numel() * keep / max(total, 1)) < 1


def test_the_largest_remainder_gets_the_weight_and_ties_go_by_position() -> None:
    # 7 of 20: 3.5, 2.1 and 1.4 of 10, 6 and 4
    scores = draw_scores([(10,), (6,), (4,)])
    assert uniform(scores, 7) == {"0": 4, "1": 2, "2": 1}
    assert uniform(draw_scores([(3,), (3,), (3,)]), 5) == {"0": 2, "1": 2, "2": 1}


@pytest.mark.parametrize(
    ("sparsity", "published"),
    [(0.8, (0.16224, 0.46936, 1.0)), (0.9, (0.07957, 0.23019, 1.0)), (0.98, (0.01539, 0.04453, 0.36740))],
)
def test_erk_of_lenet(sparsity: float, published: tuple[float, ...]) -> None:
    total = 266_200
    counts = erk(LENET, round((1 - sparsity) * total))
    for count, density, tensor in zip(counts.values(), published, LENET.values(), strict=True):
        assert count == pytest.approx(density * tensor.numel(), abs=1 + 1e-5 * tensor.numel())


@pytest.mark.parametrize(("sparsity", "dense", "scale"), [(0.8, 8, 99.562), (0.9, 1, 48.787), (0.95, 0, 24.372)])
def test_erk_of_resnet50_saturates_again_and_again(sparsity: float, dense: int, scale: float) -> None:
    total = sum(t.numel() for t in RESNET50.values())
    assert total == 25_502_912
    counts = erk(RESNET50, round((1 - sparsity) * total))
    assert sum(counts[n] == t.numel() for n, t in RESNET50.items()) == dense
    for name, tensor in RESNET50.items():
        raw = sum(tensor.shape) * scale
        assert counts[name] == pytest.approx(min(raw, tensor.numel()), abs=1 + 2e-5 * raw)


def test_er_counts_channels_only() -> None:
    # densities ∝ (16 + 8) / 128 and (8 + 8) / 64, whatever the kernels
    scores = draw_scores([(16, 8, 3, 3), (8, 8, 5, 5)])
    first, second = densities(er(scores, 600), scores)
    assert second / first == pytest.approx((16 / 64) / (24 / 128), rel=0.01)


def test_er_and_erk_agree_on_matrices() -> None:
    for keep in (0, 1000, 26_620, 200_000, 266_200):
        assert er(LENET, keep) == erk(LENET, keep)


def test_first_and_last_are_dense() -> None:
    scores = draw_scores([(4, 5), (50, 4), (30, 10), (2, 5)])
    counts = uniform_first_last(scores, 130)  # 30 of them in the first and the last
    assert counts == {"0": 20, "1": 40, "2": 60, "3": 10}
    assert uniform_first_last(draw_scores([(7,)]), 7) == {"0": 7}
    with pytest.raises(Invalid, match="cannot keep 29 of 530 weights: the first and the last layer have 30"):
        uniform_first_last(scores, 29)
    with pytest.raises(Invalid, match="cannot keep 3 of 7"):
        uniform_first_last(draw_scores([(7,)]), 3)


def test_global_counts_the_largest() -> None:
    scores = {"a": torch.tensor([5.0, 1.0, 4.0]), "b": torch.tensor([3.0, 6.0])}
    assert global_(scores, 3) == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    ("weights", "ascending"),
    [((0.1, -0.4, 0.2, 0.3), (0.03333, 0.13793, 0.36, 1)), ((1, -2, 2, 4), (0.04, 0.16667, 0.2, 1))],
)
def test_lamp_scores_of_small_layers(weights: tuple[float, ...], ascending: tuple[float, ...]) -> None:
    assert lamp_scores(torch.tensor(weights)).tolist() == pytest.approx(ascending, abs=1e-5)


@given(entries=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30))
@quick
def test_lamp_scores_by_their_definition(entries: list[float]) -> None:
    squares = sorted(x * x for x in entries)
    sums = [math.fsum(squares[i:]) for i in range(len(squares))]
    expected = [s / t if t else 0.0 for s, t in zip(squares, sums, strict=True)]
    assert lamp_scores(torch.tensor(entries, dtype=torch.float64)).tolist() == pytest.approx(expected, rel=1e-9)


@given(shapes=SHAPES, scale=st.sampled_from([1e-30, 1e-3, 64.0, 1e30]), seed=st.integers(0, 9))
@quick
def test_lamp_does_not_see_the_scale_of_a_layer(shapes: list, scale: float, seed: int) -> None:
    scores = draw_scores(shapes, seed)
    scaled = scores | {"0": scores["0"].double() * scale}
    for keep in range(0, sum(t.numel() for t in scores.values()), 7):
        assert lamp(scaled, keep) == lamp(scores, keep)


@given(shapes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=5))
@quick
def test_lamp_leaves_no_layer_empty(shapes: list) -> None:
    scores = {name: 10.0 ** int(name) * tensor for name, tensor in draw_scores(shapes).items()}
    assert set(lamp(scores, len(shapes)).values()) == {1}


def test_lamp_of_infinite_and_zero_layers() -> None:
    inf = float("inf")
    assert lamp_scores(torch.tensor([inf, 1.0, -inf])).tolist() == [0, 0.5, 1]
    assert lamp_scores(torch.zeros(2)).tolist() == [0, 0]
    assert lamp_scores(torch.tensor([3, 4])).tolist() == pytest.approx([9 / 25, 1])
