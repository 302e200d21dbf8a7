"""The seam: what `prune` asks of a criterion that somebody else writes."""

from dataclasses import dataclass
from itertools import count
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.core.errors import Invalid
from prunus.pruning import Scoring


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 10, bias=False))


def numbered(scoring: Scoring) -> dict[str, Tensor]:
    return {name: torch.arange(w.numel()).view_as(w) for name, w in scoring.weights.items()}


def places(masks: prunus.Masks) -> list[int]:
    return masks["0.weight"].flatten().nonzero().flatten().tolist()


def test_a_class_may_say_its_rounds_and_schedule():
    seen: list[float] = []

    class Often:
        uses: ClassVar[frozenset[str]] = frozenset()
        rounds: ClassVar[int] = 4
        schedule: ClassVar[str] = "linear"

        def __call__(self, scoring: Scoring) -> dict[str, Tensor]:
            seen.append(scoring.masks.density)
            return numbered(scoring)

    prunus.prune(model(), Often(), 0.2)
    assert seen == [1.0, 0.8, 0.6, 0.4]
    del seen[:]
    prunus.prune(model(), Often(), 0.2, rounds=1)
    assert seen == [1.0]
    del seen[:]
    prunus.prune(model(), Often(), 0.25, rounds=2, schedule="exponential")
    assert seen == [1.0, 0.5]


def test_a_class_that_regrows_chooses_among_all_and_is_told_the_masks():
    class Alternating:
        uses: ClassVar[frozenset[str]] = frozenset()
        regrows: ClassVar[bool] = True

        def __init__(self) -> None:
            self.seen: list[list[int]] = []

        def __call__(self, scoring: Scoring) -> dict[str, Tensor]:
            self.seen.append(places(scoring.masks))
            return {n: (-1) ** len(self.seen) * t for n, t in numbered(scoring).items()}

    criterion = Alternating()
    masks = prunus.prune(model(), criterion, 0.1, rounds=3, schedule="one-shot")
    assert criterion.seen == [list(range(100)), list(range(10)), list(range(90, 100))]
    assert places(masks) == list(range(10))


def test_a_walk_is_told_what_is_dropped_in_each_round():
    class Walk:
        def __init__(self) -> None:
            self.dropped: list[list[int]] = []

        def scores(self, left):
            return {"0.weight": left.of("0.weight", torch.arange(100).view(10, 10))}

        def drop(self, dropped):
            self.dropped.append({name: positions.tolist() for name, positions in dropped}["0.weight"])

        def change(self, masks):
            raise AssertionError("only of criteria that regrow")

    @dataclass(frozen=True)
    class Walking:
        walk: Walk
        uses: ClassVar[frozenset[str]] = frozenset()

        def __call__(self, scoring):
            raise AssertionError("begin is asked instead")

        def begin(self, scoring: Scoring) -> Walk:
            assert scoring.masks.density == 1
            return self.walk

    walk = Walk()
    masks = prunus.prune(model(), Walking(walk), 0.1, rounds=3, schedule="linear")
    assert places(masks) == list(range(90, 100))
    assert walk.dropped == [list(range(30)), list(range(30, 60))]  # nobody scores after the last round


def test_an_iterator_is_read_no_further_than_needed():
    read = count()

    def two(scoring: Scoring) -> dict[str, Tensor]:
        batches = iter(scoring.batches or ())
        assert [next(batches), next(batches)] == [0, 1]
        return numbered(scoring)

    prunus.prune(model(), two, 0.5, rounds=4, batches=read)
    assert next(read) == 2


def test_a_list_is_handed_on_as_it_is():
    data = [1, 2]

    def same(scoring: Scoring) -> dict[str, Tensor]:
        assert scoring.batches is data
        return numbered(scoring)

    prunus.prune(model(), same, 0.5, rounds=2, batches=data)


def test_random_numbers_are_drawn_once():
    once, often = (
        prunus.prune(model(), prunus.Random(), 0.1, rounds=r, generator=torch.Generator().manual_seed(0))
        for r in (1, 7)
    )
    assert once == often


@pytest.mark.parametrize(
    ("scores", "match"),
    [
        ({}, r"only one of the scores and the prunable weights has '0\.weight'"),
        ({"0.weight": torch.ones(10, 10), "more": torch.ones(1)}, "only one of .* has 'more'"),
        ({"0.weight": torch.ones(100)}, r"the scores of 0\.weight are \(100,\); allowed: \(10, 10\)"),
        ({"0.weight": torch.ones(10, 10) * float("nan")}, r"the scores of 0\.weight hold NaN"),
        ({"0.weight": torch.ones(10, 10) * 1j}, r"the scores of 0\.weight are torch\.complex64; allowed: floats"),
    ],
)
@pytest.mark.parametrize("scope", ["global", "layerwise"])
def test_scores_that_are_none(scores, match, scope):
    with pytest.raises(Invalid, match=match):
        prunus.prune(model(), lambda _: scores, 0.5, scope=scope)
