"""Critical compression against brute force, its closed form against the bisection, and published values."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prunus
from prunus.analysis import critical_compression, critical_compression_of
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.core.seeds import generator
from prunus.core.select import select_count
from prunus.models import build

quick = settings(deadline=None, max_examples=100)
SCORES = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=7), min_size=1, max_size=5).map(
    lambda layers: {f"layer{i}": torch.tensor(values) for i, values in enumerate(layers)}
)


def smallest(scores):
    """The slow way: keep one more weight until each layer has one; and the layers that lack one just before."""
    ranked = sorted(
        ((-value, i, j, name) for i, (name, t) in enumerate(scores.items()) for j, value in enumerate(t.tolist())),
    )
    before: set[str] = set()
    for keep in range(1, len(ranked) + 1):
        missing = set(scores) - {name for *_, name in ranked[:keep]}
        if not missing:
            return keep, before
        before = missing
    raise AssertionError


@given(SCORES)
@quick
def test_the_closed_form(scores):
    keep, before = smallest(scores)
    found = critical_compression_of(scores)
    assert (found.kept, found.layers, found.total) == (keep, len(scores), sum(len(t) for t in scores.values()))
    assert found.is_maximal == (keep == len(scores))
    assert found.first is None if found.is_maximal else {found.first} == before
    assert found.compression == found.total / keep <= found.maximum


@given(SCORES)
@quick
def test_the_bisection_finds_the_same(scores):
    exact = critical_compression_of(scores)
    found = critical_compression(lambda keep: select_count(scores, keep), scores)
    assert (found.kept, found.first, found.total, found.layers) == (exact.kept, exact.first, exact.total, exact.layers)
    assert found.evaluations <= 3 + math.log2(found.total * (1 + math.log(found.total)))


def test_floats_infinities_and_many_ties():
    scores = {
        "a": torch.tensor([[1.0, math.inf], [0.5, -math.inf]]),
        "b": torch.full((100,), 0.5, dtype=torch.float64),
        "c": torch.tensor([-1.0, 0.5]),
    }
    # before the second score of c: two of a, one of a equal to it, and a hundred of b
    assert critical_compression_of(scores).kept == 2 + 1 + 100 + 1
    assert critical_compression_of(scores).first == "c"


def test_the_maximum_is_tried_first():
    asked = []

    def masks_at(keep):
        asked.append(keep)
        return Masks({"a": torch.arange(1000) < keep - 1, "b": torch.arange(500) < 1})

    found = critical_compression(masks_at, {"a": 1000, "b": 500})
    assert asked == [2]
    assert (found.kept, found.evaluations, found.first, found.is_maximal) == (2, 1, None, True)
    assert found.compression == found.maximum == 750


def test_a_tolerance_saves_evaluations():
    scores = {"a": torch.arange(100_000.0), "b": torch.tensor([40_000.5])}
    exact = critical_compression_of(scores)
    assert exact.kept == 60_000  # 59,999 are above
    asked = critical_compression(lambda keep: select_count(scores, keep), scores)
    rough = critical_compression(lambda keep: select_count(scores, keep), scores, tolerance=0.01)
    assert asked.kept == exact.kept
    assert rough.evaluations < asked.evaluations
    assert 0 <= exact.log10 - rough.log10 <= 0.01


def test_layers_that_may_be_emptied_are_left_out():
    scores = {"main": torch.tensor([3.0, 2.0]), "shortcut": torch.tensor([0.0]), "last": torch.tensor([1.0])}

    def masks_at(keep):
        return select_count(scores, keep)

    assert critical_compression(masks_at, scores).kept == critical_compression_of(scores).kept == 4
    found = critical_compression(masks_at, scores, exclude="short*")
    assert (found.kept, found.total, found.layers, found.first) == (3, 4, 2, "last")
    exact = critical_compression_of(scores, exclude="short*")
    assert (exact.kept, exact.total, exact.layers, exact.first) == (3, 4, 2, "last")


def test_no_masks_count_as_a_collapse():
    scores = {"a": torch.arange(50.0), "b": torch.tensor([20.5])}

    def masks_at(keep):
        return select_count(scores, keep) if keep > 35 else None

    assert critical_compression(lambda keep: select_count(scores, keep), scores).kept == 30
    found = critical_compression(masks_at, scores)
    assert (found.kept, found.first) == (36, None)


def test_magnitude_and_random_on_vgg_16_for_cifar_100():
    """Published, on a grid of quarters of a power of ten: 10^2.75, 10^3.33, of possible 10^6.02."""
    weights = prunable(build("vgg-16", (3, 32, 32), 100, generator=generator(0)))
    magnitude = critical_compression_of({name: weight.detach().abs() for name, weight in weights.items()})
    assert magnitude.log10 == pytest.approx(2.75, abs=0.125)
    assert round(math.log10(magnitude.maximum), 2) == 6.02
    draws = generator(0, "scores")
    random = [
        critical_compression_of({n: torch.rand(w.shape, generator=draws) for n, w in weights.items()}).log10
        for _ in range(3)
    ]
    assert sum(random) / 3 == pytest.approx(3.33, abs=0.25)


def test_synflow_reaches_the_maximum_on_vgg_11():
    model = build("vgg-11-bn", (3, 32, 32), 10, width=1 / 8, generator=generator(0))
    total = sum(weight.numel() for weight in prunable(model).values())
    found = critical_compression(lambda keep: prunus.prune(model, prunus.SynFlow(), keep / total), model)
    assert (found.kept, found.is_maximal, found.evaluations) == (9, True, 1)


def test_in_words():
    found = critical_compression_of({"a": torch.tensor([3.0, 2.0, 1.0]), "b": torch.tensor([1.5])})
    assert str(found) == (
        "critical compression 10^0.12 (1.33333×, 3 weights kept); b goes first; possible: 10^0.30 (2 layers, 4 weights)"
    )


# Bad input


def test_masks_that_keep_another_number_are_refused():
    with pytest.raises(Invalid, match=r"masks_at\(2\) keeps 4 weights; allowed: exactly as many as asked for"):
        critical_compression(lambda _: Masks({"a": torch.ones(2), "b": torch.ones(2)}), {"a": 2, "b": 2})


@pytest.mark.parametrize("masks", [{"a": torch.ones(2)}, dict.fromkeys("abc", torch.ones(2))])
def test_masks_of_another_model_are_refused(masks):
    with pytest.raises(Invalid, match=r"masks_at\(2\) and the weights are of different models: only one has '[bc]'"):
        critical_compression(lambda _: Masks(masks), {"a": 2, "b": 2})


def test_patterns_that_match_nothing_or_everything_are_refused():
    with pytest.raises(Invalid, match=r"exclude='shortcut' matches no parameter; allowed: a, b"):
        critical_compression_of({"a": torch.ones(2), "b": torch.ones(2)}, exclude="shortcut")
    with pytest.raises(Invalid, match=r"exclude='\*' leaves no layer"):
        critical_compression_of({"a": torch.ones(2)}, exclude="*")


def test_a_negative_tolerance_is_refused():
    with pytest.raises(Invalid, match=r"tolerance is -0\.1; allowed: a number from 0"):
        critical_compression(lambda _: Masks({}), {"a": 2}, tolerance=-0.1)


def test_nan_is_refused():
    with pytest.raises(Invalid, match="the scores of a hold NaN"):
        critical_compression_of({"a": torch.tensor([1.0, math.nan])})
    with pytest.raises(Invalid, match="there is no weight"):
        critical_compression_of({})
