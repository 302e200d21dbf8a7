"""`Left` against masks: the same is left whether the weights are masked or listed."""

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.select import select_count
from prunus.pruning.left import Left

SHAPES = {"a": (4, 5), "b": (3, 2, 2), "c": (1,), "d": (0, 3)}


def full() -> Masks:
    return Masks({name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()})


def drawn(draws: torch.Generator, ties: bool) -> dict[str, Tensor]:
    """Scores of all weights, that of the second not contiguous."""
    made = {name: torch.randn(shape, generator=draws) for name, shape in SHAPES.items()}
    if ties:
        made = {name: tensor.round() for name, tensor in made.items()}
    return {**made, "b": made["b"].permute(2, 1, 0).contiguous().permute(2, 1, 0)}


def positions(dropped: object) -> dict[str, list[int]]:
    return {name: places.tolist() for name, places in dropped}  # type: ignore[attr-defined]


@pytest.mark.parametrize("listed", [0, 0.5, 2])
@given(seed=st.integers(0, 99), counts=st.lists(st.integers(0, 33), min_size=1, max_size=5), ties=st.booleans())
@settings(deadline=None, max_examples=40)
def test_what_is_left_and_what_goes_are_those_of_masks(listed: float, seed: int, counts: list[int], ties: bool) -> None:
    draws = torch.Generator().manual_seed(seed)
    left, masks = Left(full(), listed), full()
    for count in sorted(counts, reverse=True):
        scores = drawn(draws, ties)
        after = select_count(scores, count, masks)
        gone = {n: (masks[n] & ~after[n]).flatten().nonzero().flatten().tolist() for n in masks}
        assert positions(left.keep({n: left.of(n, t) for n, t in scores.items()}, count, {})) == gone
        assert left.masks() == after
        assert left.count == count
        masks = after


@pytest.mark.parametrize("listed", [0, 2])
def test_floors_hold_in_either_form(listed: float) -> None:
    left = Left(full(), listed)
    draws = torch.Generator().manual_seed(0)
    for count in (20, 8, 5):
        scores: Mapping[str, Tensor] = {
            name: left.of(name, tensor + (name == "b") * 10) for name, tensor in drawn(draws, ties=False).items()
        }
        left.keep(scores, count, {"a": 2, "c": 1})
        kept = {layer.name: layer.kept for layer in left.masks().layers}
        assert kept == {"a": 2, "b": count - 3, "c": 1, "d": 0} or count == 20
        assert kept["a"] >= 2
        assert kept["c"] == 1


def test_zeros_have_the_form_of_scores() -> None:
    for listed, shape in ((0, (4, 5)), (2, (3,))):
        left = Left(full(), listed)
        scores = {name: torch.zeros(s) for name, s in SHAPES.items()}
        left.keep({**scores, "a": torch.zeros(4, 5)}, 3, {})
        assert left.zeros("a", torch.float64).shape == shape
        assert left.zeros("a", torch.float64).dtype == torch.float64


def test_masks_of_a_selection_take_the_place() -> None:
    left = Left(full(), 0)
    chosen = Masks({name: torch.arange(mask.numel()).view(mask.shape) % 2 == 0 for name, mask in full().items()})
    assert positions(left.become(chosen))["b"] == [1, 3, 5, 7, 9, 11]
    assert left.masks() == chosen
    assert left.count == chosen.kept


def test_more_than_there_is_and_nan_are_refused() -> None:
    left = Left(full())
    scores = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    left.keep(scores, 30, {})
    with pytest.raises(Invalid, match="keeps 31 weights after a round that left 30"):
        left.keep(scores, 31, {})
    with pytest.raises(Invalid, match="the scores of c hold NaN"):
        left.keep({**scores, "c": torch.tensor([float("nan")])}, 20, {})


def test_masks_are_handed_out_as_they_are_then() -> None:
    left = Left(full())
    scores = drawn(torch.Generator().manual_seed(0), ties=False)
    first = left.masks()
    left.keep(scores, 20, {})
    second = left.masks()
    left.keep({name: left.of(name, tensor) for name, tensor in scores.items()}, 3, {})
    assert first == full()
    assert second.kept == 20
