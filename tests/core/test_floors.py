"""Floors against the obvious way: first the floor of each parameter, then the rest."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.core.errors import Invalid
from prunus.core.floors import floors_of, largest_above, raised

SIZES = {"stem.weight": 20, "block.0.conv.weight": 12, "block.0.shortcut.weight": 4, "head.weight": 10}


@pytest.mark.parametrize(
    ("protect", "floors"),
    [
        (None, {}),
        ({}, {}),
        (2, dict.fromkeys(SIZES, 2)),
        (0, dict.fromkeys(SIZES, 0)),
        (0.25, {"stem.weight": 5, "block.0.conv.weight": 3, "block.0.shortcut.weight": 1, "head.weight": 2}),
        (1e-9, dict.fromkeys(SIZES, 1)),
        ({"*shortcut*": 1.0}, {"block.0.shortcut.weight": 4}),
        ({"block.*": 3, "*shortcut*": 1}, {"block.0.conv.weight": 3, "block.0.shortcut.weight": 1}),
        ({"head.weight": 1, "stem.weight": 2}, {"stem.weight": 2, "head.weight": 1}),
    ],
)
def test_numbers_and_densities_for_all_or_by_pattern(protect, floors):
    found = floors_of(protect, SIZES, 46)
    assert found == floors
    assert list(found) == [name for name in SIZES if name in floors]


@pytest.mark.parametrize(
    ("protect", "keep", "message"),
    [
        (1, 3, "protect keeps at least 4 weights, and only 3 of 46 are kept"),
        (5, 46, r"protect is 5 for block\.0\.shortcut\.weight, which has 4 weights"),
        (-1, 46, "protect is -1 for .*; allowed: a whole number, or a density"),
        (2.0, 46, r"protect is 2\.0 for"),
        (0.0, 46, r"protect is 0\.0 for"),
        (float("nan"), 46, "protect is nan for"),
        (True, 46, "protect is True for"),
        ("1", 46, "protect is '1' for"),
        ({"*": None}, 46, "protect is None for"),
        ({"blok.*": 1}, 46, r"protect has 'blok\.\*', which matches no pruned parameter"),
    ],
)
def test_bad_floors_get_one_line(protect, keep, message):
    with pytest.raises(Invalid, match=message):
        floors_of(protect, SIZES, keep)


@given(seed=st.integers(0, 999), keep=st.integers(6, 40), masked=st.booleans(), ties=st.booleans())
@settings(deadline=None, max_examples=80)
def test_each_gets_its_best_and_the_rest_goes_to_the_best_of_all(seed, keep, masked, ties):
    draws = torch.Generator().manual_seed(seed)
    scores = {name: torch.randn(size, generator=draws) for name, size in SIZES.items()}
    if ties:
        scores = {name: tensor.round() for name, tensor in scores.items()}
    among = [torch.rand(len(t), generator=draws) < 0.95 for t in scores.values()] if masked else None
    floors = {"stem.weight": 1, "block.0.shortcut.weight": 3, "head.weight": 2}
    rows = [
        (float(score), name, place)
        for i, (name, tensor) in enumerate(scores.items())
        for place, score in enumerate(tensor)
        if among is None or among[i][place]
    ]
    best = sorted(rows, key=lambda row: -row[0])
    first = {row for name, floor in floors.items() for row in [r for r in best if r[1] == name][:floor]}
    chosen = first | set([row for row in best if row not in first][: keep - len(first)])
    found = largest_above(scores, keep, floors, among)
    kept = {(name, p) for name, m in zip(scores, found, strict=True) for p, is_in in enumerate(m.tolist()) if is_in}
    assert kept == {(name, place) for _, name, place in chosen}


@given(data=st.data())
@settings(deadline=None, max_examples=200)
def test_raised_counts_keep_their_sum_and_their_room(data):
    names = [f"{i}" for i in range(data.draw(st.integers(1, 5)))]
    room = {name: data.draw(st.integers(0, 20)) for name in names}
    counts = {name: data.draw(st.integers(0, room[name])) for name in names}
    keep = sum(counts.values())
    floors: dict[str, int] = {}
    for name in names:
        floors[name] = data.draw(st.integers(0, keep - sum(floors.values())))
    found = raised(counts, floors, room, keep)
    assert sum(found.values()) == keep
    assert all(min(floors[n], room[n]) <= found[n] <= room[n] for n in names)
    if all(counts[n] >= min(floors[n], room[n]) for n in names):
        assert found == counts


def test_the_others_give_in_proportion():
    assert raised({"a": 0, "b": 30, "c": 10}, {"a": 4}, {"a": 9, "b": 99, "c": 99}, 40) == {"a": 4, "b": 27, "c": 9}
