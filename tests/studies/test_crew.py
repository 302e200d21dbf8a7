import importlib.util

import pytest

from prunus.core.errors import Invalid
from prunus.studies import crew
from prunus.studies.crew import Crew, Where, crew_here, crew_there, memory_of_a_worker, where_to

GB = 10**9


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("3", Where(count=3)),
        ("auto", Where()),
        ("head:6379", Where(address="head:6379")),
        ("10.0.0.1:6379", Where(address="10.0.0.1:6379")),
        ("[::1]:6379", Where(address="[::1]:6379")),
    ],
)
def test_workers_are_a_number_or_an_address(text, where, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert where_to(text) == where


def test_the_cluster_of_the_environment_is_meant_by_auto(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert where_to("auto") == Where(address="head:6379")
    monkeypatch.setenv("RAY_ADDRESS", "head")
    with pytest.raises(Invalid, match="RAY_ADDRESS is 'head'; allowed: ray://HOST:PORT or HOST:PORT"):
        where_to("auto")


@pytest.mark.parametrize(
    "text",
    ["0", "-1", "", "2.5", "two", "Auto", "ray://head", "ray://:1", "head:0", "head:65536", "http://head:1", "a b:1"],
)
def test_what_workers_cannot_be(text):
    with pytest.raises(
        Invalid, match=r"^--workers is .*; allowed: a number of processes here \(at least 1\), auto, or"
    ):
        where_to(text)


@pytest.mark.parametrize(
    ("text", "missing", "says"),
    [("2", "ray", "--workers 2 needs Ray"), ("ray://head:10001", "grpc", "--workers ray://head:10001 needs grpcio")],
)
def test_what_is_not_installed_is_said(text, missing, says, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found("os"))
    with pytest.raises(Invalid, match=rf"^{says}: install prunus\[ray\]$"):
        where_to(text)


@pytest.fixture
def machine(monkeypatch):
    """A machine with eight cores and 10 GB of free memory."""
    monkeypatch.setattr(crew, "available_cores", lambda: 8)
    monkeypatch.setattr(crew, "available_memory", lambda: 10 * GB)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("count", "threads", "cells", "expected"),
    [
        (2, 1, 100, Crew(2, 4)),
        (3, 1, 100, Crew(3, 2)),
        (3, 2, 100, Crew(3, 2)),
        (8, 1, 100, Crew(8, 1)),
        (8, 1, 3, Crew(3, 2)),  # the others would have nothing to do
        (1, 16, 100, Crew(1, 8)),  # as in one process
        (None, 1, 100, Crew(8, 1)),
        (None, 3, 100, Crew(2, 4)),
    ],
)
def test_workers_here_share_the_cores(count, threads, cells, expected):
    assert crew_here(Where(count), "cpu", threads, cells, GB) == expected


@pytest.mark.usefixtures("machine")
def test_there_are_no_more_workers_than_cores():
    with pytest.raises(Invalid, match=r"^--workers is 64; allowed: up to 8, since 8 cores are here$"):
        crew_here(Where(64), "cpu", 1, 100, GB)
    with pytest.raises(Invalid, match=r"up to 4, since 8 cores are here, and each training takes 2 threads$"):
        crew_here(Where(5), "cpu", 2, 100, GB)


@pytest.mark.usefixtures("machine")
def test_there_are_no_more_workers_than_memory_holds():
    says = r"^--workers is 8; allowed: up to 4, since each needs about 2.5 GB of memory and 10.0 GB are free$"
    with pytest.raises(Invalid, match=says):
        crew_here(Where(8), "cpu", 1, 100, 5 * GB // 2)
    assert crew_here(Where(), "cpu", 1, 100, 5 * GB // 2) == Crew(4, 2)


@pytest.mark.usefixtures("machine")
def test_workers_here_share_the_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert crew_here(Where(), "cuda", 1, 100, GB) == Crew(2, 4, 1.0)
    assert crew_here(Where(1), "cuda", 1, 100, GB) == Crew(1, 8, 1.0)
    shared = crew_here(Where(6), "cuda", 1, 100, GB)
    assert shared == Crew(6, 1, 0.3333)
    assert shared.count * shared.gpus <= 2


@pytest.mark.parametrize("device", ["mps", "cuda:1"])
def test_a_device_that_workers_cannot_have(device):
    with pytest.raises(Invalid, match=rf"^device is '{device}'; allowed with --workers: cpu, or cuda"):
        crew_here(Where(1), device, 1, 100, GB)
    with pytest.raises(Invalid, match=rf"^device is '{device}'; allowed with --workers: cpu, or cuda"):
        crew_there([{"CPU": 4.0, "GPU": 1.0, "memory": 9 * GB}], "head:1", device, 1, 100, GB)


SMALL, LARGE, NO_CORES = {"CPU": 4.0, "memory": 3.5 * GB}, {"CPU": 8.0, "memory": 64.0 * GB}, {"memory": 9.0 * GB}


@pytest.mark.parametrize(
    ("nodes", "threads", "cells", "expected"),
    [
        ([SMALL], 1, 100, Crew(3, 1, 0.0, GB)),  # its memory holds three
        ([SMALL, LARGE, NO_CORES], 1, 100, Crew(11, 1, 0.0, GB)),
        ([SMALL, LARGE], 3, 100, Crew(3, 3, 0.0, GB)),
        ([SMALL, LARGE], 8, 100, Crew(1, 8, 0.0, GB)),
        ([SMALL, LARGE], 1, 5, Crew(5, 1, 0.0, GB)),
    ],
)
def test_a_cluster_has_a_worker_for_as_many_cores_as_a_training_takes(nodes, threads, cells, expected):
    assert crew_there(nodes, "head:1", "cpu", threads, cells, GB) == expected


def test_a_cluster_has_a_worker_for_each_gpu():
    nodes = [LARGE, {"CPU": 16.0, "GPU": 4.0, "memory": 64.0 * GB}, {"CPU": 32.0, "GPU": 2.0, "memory": 64.0 * GB}]
    assert crew_there(nodes, "head:1", "cuda", 1, 100, GB) == Crew(6, 4, 1.0, GB)


@pytest.mark.parametrize(
    ("nodes", "device", "threads", "says"),
    [
        ([LARGE], "cuda", 1, "device is 'cuda'; the cluster at head:1 has no GPU; allowed: cpu"),
        ([NO_CORES], "cpu", 1, "--workers head:1: no machine of the cluster has the core that a worker needs"),
        ([SMALL, LARGE], "cpu", 9, "--workers head:1: no machine of the cluster has the 9 cores that a worker needs"),
        (
            [SMALL],
            "cpu",
            1,
            "a worker needs about 5.0 GB of memory, and no machine of the cluster has more than 3.5 GB",
        ),
    ],
)
def test_a_cluster_that_has_no_room(nodes, device, threads, says):
    with pytest.raises(Invalid, match=r"^[^\n]*$") as caught:
        crew_there(nodes, "head:1", device, threads, 100, 5 * GB)
    assert says in str(caught.value)


def test_a_worker_needs_about_what_a_process_with_torch_needs():
    assert 0.1 * GB < memory_of_a_worker() < 100 * GB
