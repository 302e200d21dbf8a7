import os
import shutil
import subprocess
import sys
import threading
from dataclasses import asdict, replace

import pytest
import torch
from ray import cloudpickle

from prunus._version import __version__
from prunus.core.errors import Invalid
from prunus.core.files import read_tensors, write_tensors
from prunus.studies import worker
from prunus.studies.cells import Cell
from prunus.studies.store import Store
from prunus.studies.worker import Brief, Fed, Worker, appears, shell
from small_study import by_place, contents, finished, small

VERSIONS = {"Python": f"{sys.version_info[0]}.{sys.version_info[1]}", "torch": torch.__version__.split("+")[0]}
VERSIONS["Prunus"] = __version__


def brief(plan, cores=1):
    plan.store.root.mkdir(exist_ok=True)
    (plan.store.root / "token").write_text("it is me")
    digests = {name: data.digest for name, data in plan.data.items()}
    return Brief(plan.study.model_dump_json(), str(plan.store.root), ("token", "it is me"), digests, cores, 60.0)


def trained(at_work, keys):
    """Give these cells to the worker; what it tells until it has ended with all of them."""
    news, left = at_work.exchange(keys, 1.0), set(keys)
    for _ in range(60):
        left -= {told.key for told in news if told.kind in ("filed", "given up")}
        if not left or any(told.kind == "failed" for told in news):
            return news
        news += at_work.exchange([], 1.0)
    raise AssertionError(news)


def end_of(at_work, key):
    """What the worker tells of a cell in the end."""
    return [told for told in trained(at_work, [key]) if told.kind != "room"][-1]


def refusal(plan, **more):
    return shell()().start(VERSIONS, asdict(replace(brief(plan), **more)))["refusal"]


@pytest.fixture
def study(tmp_path):
    """A small study, prepared and not run."""
    from prunus.studies.runner import prepare

    return prepare(small(arms=["reinit"]), tmp_path / "out")


def test_a_worker_trains_what_it_is_given_and_tells_of_it(study, tmp_path, monkeypatch):
    cores = []
    local = worker.LocalRun
    monkeypatch.setattr(worker, "LocalRun", lambda *a, **k: cores.append(k["cores"]) or local(*a, **k))
    at_work, cells = Worker(brief(study, cores=3)), by_place(study.cells)
    first, second, control = cells[0, 0, "ticket"], cells[0, 1, "ticket"], cells[0, 1, "reinit"]
    news = trained(at_work, [first.key])
    kinds = [told.kind for told in news if told.kind != "room"]
    assert kinds == ["begun", "evaluated", "evaluated", "filed"]
    assert [told.what.iteration for told in news if told.kind == "evaluated"] == [10, 20]
    assert "room" in {told.kind for told in news}  # one cell does not fill a stack
    assert news[-1].what == study.store.history(first.key)
    trained(at_work, [second.key])
    trained(at_work, [control.key])
    assert cores == [3] * len(cores)

    finished(small(arms=["reinit"]), tmp_path / "local")
    there = contents(tmp_path / "local")
    assert {name: there[name] for name in contents(study.store.root)} == contents(study.store.root)
    assert sum(name.endswith("records.json") for name in contents(study.store.root)) == 3


def test_a_cell_that_is_filed_is_not_trained_again(study):
    first = study.cells[0]
    trained(Worker(brief(study)), [first.key])
    before = (study.store.root / "cells" / first.key / "about.json").stat().st_mtime_ns
    news = trained(Worker(brief(study)), [first.key])
    assert [(told.kind, told.what) for told in news] == [("filed", study.store.history(first.key))]
    assert (study.store.root / "cells" / first.key / "about.json").stat().st_mtime_ns == before


def test_a_cell_whose_parent_was_trained_to_nan_is_given_up(study):
    cells = by_place(study.cells)
    first, second = cells[0, 0, "ticket"], cells[0, 1, "ticket"]
    trained(Worker(brief(study)), [first.key])
    file = study.store.root / "cells" / first.key / "trained.safetensors"
    tensors, metadata = read_tensors(file)
    write_tensors(file, {name: tensor * float("nan") for name, tensor in tensors.items()}, metadata)
    at_work = Worker(brief(study))
    told = end_of(at_work, second.key)
    assert (told.kind, told.key) == ("given up", second.key)
    assert "round 1 ticket: fc1.weight was trained to NaN a round earlier" in told.what

    tensors, metadata = read_tensors(file)
    file.write_bytes(file.read_bytes()[:100])
    told = end_of(at_work, second.key)
    assert told.kind == "failed"
    assert isinstance(told.what, Invalid)
    assert str(file.parent) in str(told.what)


def test_a_disk_that_refuses_is_told_as_such(study, monkeypatch):
    def refuse(self, store):
        raise OSError(28, "No space left on device", str(store.root))

    monkeypatch.setattr("prunus.studies.work.Work.file", refuse)
    told = end_of(Worker(brief(study)), study.cells[0].key)
    assert told.kind == "failed"
    assert (told.what.errno, told.what.strerror, told.what.filename) == (
        28,
        "No space left on device",
        str(study.store.root),
    )


def test_a_parent_that_never_appears_is_a_folder_that_is_not_shared(study, monkeypatch):
    assert not appears(study.store, "no such cell", seconds=0)
    monkeypatch.setattr(worker, "SHARED_AFTER", 0.0)
    told = end_of(Worker(brief(study)), by_place(study.cells)[0, 1, "ticket"].key)
    assert told.kind == "failed"
    assert f"the results folder {str(study.store.root)!r} is not shared" in str(told.what)


def test_a_worker_that_nobody_asks_any_more_ends(study, monkeypatch):
    ended = []

    def end(code):
        ended.append(code)
        threading.Event().wait()  # as good as ended

    at_work = Worker(brief(study))
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(worker, "FORSAKEN", -1.0)
    assert at_work.exchange([study.cells[0].key], 1.0) == []
    assert ended == [1]


def test_a_results_folder_that_is_not_that_of_the_driver_is_refused(study, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_SOON", 0.1)
    says = "is not shared; allowed: a folder that all machines have and can write to"
    assert refusal(study, token=("token", "it is somebody else")) == f"the results folder '{tmp_path / 'out'}' {says}"
    assert refusal(study, token=("nothing", "it is me")).endswith(says)
    assert refusal(study, out=str(tmp_path / "elsewhere")) == f"the results folder '{tmp_path / 'elsewhere'}' {says}"


def test_data_that_are_not_those_of_the_driver_are_refused(study):
    said = refusal(study, digests=dict.fromkeys(study.data, "another"))
    assert said == "data 'digits' differ from those of the same name where the study was started"
    text = study.study.model_dump_json().replace('"digits"', '"/no/such/folder"')
    assert "data is '/no/such/folder': no such folder" in refusal(study, study=text)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_the_worker_has_not_is_refused(study):
    text = study.study.model_dump_json().replace('"device":"cpu"', '"device":"cuda"')
    assert "device is 'cuda'; here there is: auto, cpu" in refusal(study, study=text)


def test_a_worker_of_another_version_is_refused(study):
    answer = shell()().start({**VERSIONS, "torch": "1.2.3", "Prunus": "4.5.6"}, asdict(brief(study)))
    assert answer["process"] == os.getpid()
    assert answer["refusal"] == (
        f"has torch {VERSIONS['torch']} and Prunus {__version__}; "
        "allowed: torch 1.2.3 and Prunus 4.5.6, as where the study was started"
    )


def test_a_worker_without_prunus_can_say_so(tmp_path):
    (tmp_path / "worker").write_bytes(cloudpickle.dumps(shell()))
    code = f"""
import pickle, sys
sys.modules["prunus"] = None  # importing it fails
worker = pickle.loads(open("worker", "rb").read())()
print(worker.start({VERSIONS!r}, {{}})["refusal"])
"""
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said == f"has Prunus none; allowed: Prunus {__version__}, as where the study was started\n"


def test_cells_may_come_while_others_are_trained():
    def cell(network, number):
        return Cell(network, 0, number, "ticket", None, {"network": network, "number": number})  # type: ignore[arg-type]

    said = []
    fed = Fed(said.append)
    fed.give(cell("a", 0))
    fed.wait()
    fed.give(cell("b", 0))
    fed.give(cell("a", 1))
    assert len(fed) == 3
    taken = [fed.take("a"), fed.take("a")]
    assert [c.round for c in taken if c] == [0, 1]
    assert said == []
    assert fed.take("a") is None
    assert fed.take("a") is None
    assert said == ["a"]  # once
    for c in taken:
        fed.filed(c)
    assert set(fed.networks) == {"a", "b"}
    assert len(fed) == 1
    assert not fed.done
    fed.given_up(fed.take("b"))
    assert len(fed) == 0
    assert fed.done
    fed.give(cell("a", 2))
    assert fed.done  # it is not taken in yet
    assert len(fed) == 1
    assert not fed.done
    assert fed.take("b") is None
    assert said == ["a", "b"]


def test_a_finished_cell_has_its_history_in_the_store(tmp_path):
    plan = finished(small(prune__rounds=0), tmp_path)
    history = plan.store.history(plan.cells[0].key)
    (cell,) = plan.store.results(plan.study.name).cells
    assert history.evaluations == cell.evaluations
    assert (history.early_stop, history.final) == (cell.early_stop, cell.final)
    shutil.rmtree(tmp_path / "cells" / plan.cells[0].key)
    with pytest.raises(Invalid, match="damaged"):
        plan.store.history(plan.cells[0].key)


def test_a_cell_that_another_machine_has_filed_stays_as_it_is(tmp_path, monkeypatch):
    plan = finished(small(prune__rounds=0), tmp_path)
    (cell,) = plan.cells
    folder = tmp_path / "cells" / cell.key
    before, number = contents(tmp_path), folder.stat().st_ino
    # a shared disk does not show it yet when the second is filed
    monkeypatch.setattr(Store, "has", lambda self, key: False)
    at_work = Worker(brief(plan))
    assert end_of(at_work, cell.key).kind == "filed"
    assert folder.stat().st_ino == number
    assert contents(tmp_path) == before
    # but what is no cell makes way for one
    (folder / "records.json").unlink()
    assert end_of(at_work, cell.key).kind == "filed"
    assert contents(tmp_path) == before
