import pytest

from prunus.data import load
from prunus.studies.kinds import expand
from prunus.studies.schedule import Schedule
from small_study import small


def cells_of(**more):
    study = small(**more)
    data = {name: load(s.data.name, validation=s.data.validation) for name, s in study.variants.items()}
    return expand(study, data)


def drained(schedule, at_once):
    """The order in which cells are taken when `at_once` are in training, the oldest ending first; None is a wait."""
    under_way, order = [], []
    while len(schedule):
        while len(under_way) < at_once and (cell := schedule.take()):
            order.append(cell)
            under_way.append(cell)
        assert under_way, "cells are left, none is ready, and none is in training"
        schedule.filed(under_way.pop(0))
    return order


@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize("more", [{}, {"prune__rewind": 5}, {"arms": ["shuffle"], "control_rounds": [2]}])
def test_every_cell_is_taken_once_and_after_its_parents(at_once, more):
    cells = cells_of(trials=2, prune__rounds=4, **more)
    finished, schedule = set(), Schedule(cells)
    under_way, taken = [], []
    while len(schedule):
        while len(under_way) < at_once and (cell := schedule.take()):
            assert {cell.start, cell.parent} - {None} <= finished
            under_way.append(cell)
            taken.append(cell.key)
        cell = under_way.pop(0)
        finished.add(cell.key)
        schedule.filed(cell)
    assert sorted(taken) == sorted(cell.key for cell in cells)
    assert schedule.take() is None
    assert schedule.ready == 0


def test_parents_that_are_filed_already_hold_nobody_up():
    cells = cells_of(prune__rounds=3, arms=["reinit"])
    left = [cell for cell in cells if cell.round >= 2]
    first = Schedule(left).take()
    assert (first.round, first.arm) == (2, "ticket")


def test_tickets_come_before_controls_so_that_lanes_stay_busy():
    """With as many lanes as there are trials, the chain of tickets is never waited for."""
    trials, rounds = 3, 6
    order = drained(Schedule(cells_of(trials=trials, prune__rounds=rounds)), trials)
    tickets = [cell.round for cell in order if cell.arm == "ticket"]
    assert tickets == sorted(tickets)
    assert [cell.arm for cell in order[: trials * (rounds + 1)]] == ["ticket"] * (trials * (rounds + 1))


def test_what_depends_on_a_cell_that_was_given_up_is_given_up_too():
    cells = cells_of(trials=2, prune__rounds=3, arms=["shuffle"])
    schedule = Schedule(cells)
    lost = next(cell for cell in cells if (cell.trial, cell.round, cell.arm) == (0, 1, "ticket"))
    done = []
    while cell := schedule.take():
        if cell is lost:
            schedule.given_up(cell)
        else:
            done.append(cell)
            schedule.filed(cell)
    assert len(schedule) == 0
    assert {(c.trial, c.round, c.arm) for c in done if c.trial == 0} == {(0, 0, "ticket")}
    assert len([c for c in done if c.trial == 1]) == 7


def test_a_cell_that_was_put_back_is_taken_again():
    schedule = Schedule(cells_of(trials=2))
    cell = schedule.take()
    schedule.put_back(cell)
    assert schedule.take() is cell


def test_cells_can_be_taken_by_variant():
    cells = cells_of(variants={"a": {}, "b": {"train": {"lr": 0.01}}}, arms=[])
    schedule = Schedule(cells)
    assert sorted(schedule.networks) == ["a", "b"]
    assert schedule.take("b").network == "b"
    assert schedule.take("b") is None
    assert schedule.networks == ["a"]
