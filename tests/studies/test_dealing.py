from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from prunus.studies.cells import Cell
from prunus.studies.dealing import Hand, deal
from prunus.studies.schedule import Schedule


def cell(network, number, parent=None):
    identity = {"network": network, "number": number, "parent": parent}
    return Cell(network, 0, number, "ticket", None, identity, None, parent)  # type: ignore[arg-type]


def cells(network, count):
    return [cell(network, number) for number in range(count)]


def hand(*held, room=()):
    return Hand(actor=None, asked=None, ready=True, held={c.key: c for c in held}, room=set(room))


def dealt(schedule, hands, first=1, doubtful=(), free=None):
    return [
        (hands.index(to), [(c.network, c.round) for c in given])
        for to, given in deal(schedule, hands if free is None else free, hands, first, set(doubtful))
    ]


def test_every_empty_worker_gets_as_many_as_keep_it_busy():
    schedule = Schedule(cells("a", 7))
    assert dealt(schedule, [hand(), hand()], first=2) == [(0, [("a", 0), ("a", 1)]), (1, [("a", 2), ("a", 3)])]
    assert schedule.ready == 3


def test_where_there_is_little_everybody_gets_a_share():
    assert dealt(Schedule(cells("a", 3)), [hand(), hand(), hand()], first=4) == [
        (0, [("a", 0)]),
        (1, [("a", 1)]),
        (2, [("a", 2)]),
    ]


def test_a_worker_with_room_doubles_what_it_holds_and_one_without_gets_nothing():
    two = cells("a", 2)
    schedule = Schedule([cell("a", number) for number in range(2, 12)])
    hands = [hand(*two, room=["a"]), hand(cell("a", 99))]
    assert dealt(schedule, hands) == [(0, [("a", 2), ("a", 3)])]
    assert len(hands[0].held) == 4
    assert hands[0].room == set()  # it has to say again that there is some
    assert dealt(schedule, hands) == []


def test_workers_keep_to_a_variant_but_no_variant_waits_for_another():
    # the chain of b is longer, so it is more urgent
    one = cell("b", 0)
    chain = [one, cell("b", 1, parent=one.key)]
    hands = [hand(cell("a", 0), room=["a"])]
    assert dealt(Schedule([*chain, cell("a", 1)]), hands) == []  # nobody has b: this worker shall run empty for it
    hands = [hand(cell("a", 0), room=["a"]), hand(cell("b", 9))]
    assert dealt(Schedule([*chain, cell("a", 1)]), hands) == [(0, [("a", 1)])]


def test_a_worker_whose_cores_are_not_all_busy_takes_another_variant():
    hands = [hand(cell("a", 0))]
    assert dealt(Schedule(cells("b", 5)), hands, first=1) == []
    assert dealt(Schedule(cells("b", 5)), hands, first=3) == [(0, [("b", 0), ("b", 1)])]


def test_a_doubtful_cell_goes_alone_to_an_empty_worker():
    three = cells("a", 3)
    doubtful = {three[0].key}
    assert dealt(Schedule(three), [hand(cell("a", 9), room=["a"])], first=3, doubtful=doubtful) == []
    hands = [hand()]
    schedule = Schedule(three)
    assert dealt(schedule, hands, first=3, doubtful=doubtful) == [(0, [("a", 0)])]
    hands[0].room.add("a")
    assert dealt(schedule, hands, first=3, doubtful=doubtful) == []  # nothing joins it
    assert schedule.ready == 2


@given(
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=3),
    holds=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.booleans()), min_size=1, max_size=4),
    first=st.integers(1, 4),
    doubtful=st.integers(0, 3),
)
def test_each_cell_goes_to_one_worker_and_none_is_lost(counts, holds, first, doubtful):
    ready = [c for number, count in enumerate(counts) for c in cells("abc"[number], count)]
    hands = [
        hand(*(cell("abc"[which], 100 * place + n) for n in range(count)), room=["abc"[which]] if room else [])
        for place, (which, count, room) in enumerate(holds, 1)
    ]
    before = Counter(key for h in hands for key in h.held)
    schedule = Schedule(ready)
    alone = {c.key for c in ready[:doubtful]}
    given = [c for _, some in deal(schedule, hands, hands, first, alone) for c in some]
    left = list(iter(schedule.take, None))
    assert sorted(c.key for c in given + left) == sorted(c.key for c in ready)
    assert Counter(key for h in hands for key in h.held) == before + Counter(c.key for c in given)
    # an empty worker is never left so while there is work
    assert not left or all(h.held for h in hands)
    assert all(len(h.held) == 1 for h in hands if alone & h.held.keys())
