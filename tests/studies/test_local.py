"""The records of a study do not depend on how its cells are put together."""

import pytest
import torch

from prunus.core.errors import Invalid
from prunus.kernels import available
from prunus.studies import local
from prunus.studies.resolve import resolve
from prunus.studies.runner import prepare, run
from prunus.training import Stack
from small_study import by_place, contents, finished, small

MORE = {"trials": 2, "arms": ["reinit", "shuffle", "random"]}


@pytest.fixture
def sized(monkeypatch):
    """Sets the size of every stack of a run."""

    def set_size(size):
        monkeypatch.setattr(local, "Stack", lambda **how: Stack(size=size, **how))

    return set_size


@pytest.mark.parametrize("more", [{}, {"model__name": "conv-2", "trials": 1}])
def test_alone_and_stacked_every_cell_has_the_same_records_bit_for_bit(tmp_path, sized, more):
    study = small(**{**MORE, **more})
    sized(1)
    finished(study, tmp_path / "alone")
    alone = contents(tmp_path / "alone")
    for size, cores in [(3, 1), (16, 2)]:
        sized(size)
        plan = prepare(study, tmp_path / str(size))
        run(plan, "prunus run", quiet=True, cores=cores)
        assert contents(tmp_path / str(size)) == alone


def test_variants_of_different_networks_are_trained_side_by_side(tmp_path):
    variants = {"linear": {}, "conv": {"model": {"name": "conv-2"}}, "fast": {"train": {"lr": 0.01}}}
    together = finished(small(variants=variants, arms=[]), tmp_path / "together")
    assert together.finished == 9
    there = contents(tmp_path / "together")
    for name, variant in variants.items():
        finished(small(variants={name: variant}, arms=[]), tmp_path / name)
        for path, value in contents(tmp_path / name).items():
            assert there[path] == value


def test_a_trial_that_diverges_does_not_stop_the_others(tmp_path, monkeypatch):
    begin = local.begin

    def spoiled(cell, data, store, watch=None):
        work = begin(cell, data, store, watch)
        if (cell.trial, cell.round, cell.arm) == (0, 1, "ticket"):
            torch.nn.init.constant_(work.lane.model[1].weight, float("nan"))
        return work

    monkeypatch.setattr(local, "begin", spoiled)
    plan = prepare(small(trials=2), tmp_path)
    with pytest.raises(Invalid, match=r"trial 0 round 2 ticket: fc\d\.weight was trained to NaN a round earlier"):
        run(plan, "prunus run", quiet=True)
    missing = {(cell.trial, cell.round, cell.arm) for cell in plan.missing}
    assert missing == {(0, 2, "ticket"), (0, 2, "reinit"), (0, 2, "shuffle")}


def test_what_computed_a_cell_is_written_down(tmp_path):
    plan = finished(small(), tmp_path)
    cell = by_place(plan.cells)[0, 2, "ticket"]
    import json

    about = json.loads((tmp_path / "cells" / cell.key / "about.json").read_text())
    assert about["products"]
    assert set(about["products"].values()) <= {"dense", "sparse", "PyTorch"}
    assert about["seconds"] > 0


@pytest.mark.timeout(60)
def test_cells_that_need_different_engines_are_all_done_and_do_not_change_each_other(tmp_path, sized):
    """Of one variant: the kernels train the dense networks, and what learns masks is left to PyTorch."""
    given = {"trials": 2, "model.width": 0.1, "train.iterations": 20, "train.evaluate_every": 10, "widths": [1.0, 0.5]}
    study = resolve("width", given.items())
    sized(1)
    alone = finished(study, tmp_path / "alone")
    sized(16)
    together = finished(study, tmp_path / "together")
    assert alone.missing == together.missing == []
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")
    for cell in together.store.results(study.name).cells:
        products = set(cell.products.values())
        assert products == ({"dense"} if available() and cell.arm == "trained" else {"PyTorch"})
