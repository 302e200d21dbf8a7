import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.core.errors import Invalid
from prunus.core.schedules import SCHEDULES, cosine, cubic, exponential, linear, one_shot

DENSITIES = st.floats(1e-4, 1)
every = pytest.mark.parametrize("name", sorted(SCHEDULES))


@every
@given(final=DENSITIES, initial=DENSITIES, steps=st.integers(1, 60))
@settings(deadline=None, max_examples=60)
def test_goes_from_one_end_to_the_other_without_turning_back(
    name: str, final: float, initial: float, steps: int
) -> None:
    schedule = SCHEDULES[name]
    path = [schedule(step / steps, final, initial) for step in range(steps + 1)]
    assert path[0] == initial
    assert path[-1] == final
    assert path == sorted(path, reverse=initial > final)


@every
def test_starts_dense_by_default(name: str) -> None:
    assert SCHEDULES[name](0, 0.25) == 1.0


@given(progress=st.floats(0.001, 1), final=DENSITIES, initial=DENSITIES)
@settings(deadline=None, max_examples=100)
def test_closed_forms(progress: float, final: float, initial: float) -> None:
    gap = initial - final
    forms = {
        one_shot: final,
        linear: initial * (1 - progress) + final * progress,
        exponential: math.exp(math.log(initial) * (1 - progress) + math.log(final) * progress),
        cubic: final + gap * (1 - progress) ** 3,
        cosine: final + gap * math.cos(math.pi * progress / 2) ** 2,
    }
    for schedule, density in forms.items():
        assert schedule(progress, final, initial) == pytest.approx(density, rel=1e-9)


def test_exponential_rounds_remove_the_same_fraction_of_what_is_left() -> None:
    # twelve rounds of 20 %, as in the lottery ticket paper: 6.9 % of the weights remain
    path = [exponential(r / 12, 0.8**12) for r in range(13)]
    assert path == pytest.approx([0.8**r for r in range(13)])


def test_cubic_at_half_way_has_done_seven_eighths() -> None:
    # Zhu and Gupta: the sparsity is s_f − s_f (1 − t)³
    assert cubic(0.5, 0.2) == pytest.approx(1 - 0.8 * 7 / 8)


@every
@pytest.mark.parametrize("progress", [-0.01, 1.01, float("nan"), float("inf"), "half", None, True])
def test_progress_outside_its_range(name: str, progress: object) -> None:
    with pytest.raises(Invalid, match=r"progress is .*; allowed: a number in \[0, 1\]"):
        SCHEDULES[name](progress, 0.5)


@every
def test_densities_outside_their_range(name: str) -> None:
    with pytest.raises(Invalid, match=r"final is 0; allowed"):
        SCHEDULES[name](0.5, 0)
    with pytest.raises(Invalid, match=r"initial is 1.5; allowed"):
        SCHEDULES[name](0.5, 0.5, 1.5)
