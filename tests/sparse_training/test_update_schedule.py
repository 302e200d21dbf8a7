"""When the topology changes, and by how much: closed forms of the papers."""

import pytest

from prunus.core.errors import Invalid
from prunus.sparse_training import UpdateSchedule


def test_the_cosine_of_rigl():
    schedule = UpdateSchedule(100_000)
    assert schedule.end == 75_000
    assert [schedule.fraction_at(t) for t in (0, 25_000, 37_500, 75_000, 80_000)] == pytest.approx(
        [0.3, 0.225, 0.15, 0, 0]
    )


@pytest.mark.parametrize(("decay", "power", "expected"), [("constant", 3.0, 0.3), ("inverse-power", 3.0, 0.3 / 8)])
def test_the_others_at_half_way(decay, power, expected):
    schedule = UpdateSchedule(1000, until=1.0, decay=decay, power=power)
    assert schedule.fraction_at(0) == 0.3
    assert schedule.fraction_at(500) == pytest.approx(expected)
    assert schedule.fraction_at(1000) == 0


def test_updates_are_at_multiples_before_the_end():
    schedule = UpdateSchedule(20, every=5, until=0.75)
    assert [step for step in range(1, 21) if schedule.due(step)] == [5, 10]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"total_steps": 100}, "ends before it begins"),
        ({"total_steps": 0}, "total_steps is 0"),
        ({"every": 0}, "every is 0"),
        ({"every": 2.5}, r"every is 2\.5"),
        ({"until": 0.0}, r"until is 0\.0"),
        ({"until": 1.5}, r"until is 1\.5"),
        ({"fraction": 1.5}, r"fraction is 1\.5"),
        ({"decay": "cosin"}, "did you mean 'cosine'"),
        ({"decay": "inverse-power", "power": 0}, "power is 0"),
    ],
)
def test_what_is_refused(options, words):
    with pytest.raises(Invalid, match=words):
        UpdateSchedule(**{"total_steps": 1000, **options})
