"""Steps that are replayed. Without a GPU its part is played: what is checked is who calls what, and how often."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from prunus.training.engines import graphs
from prunus.training.engines.graphs import TIMED, WARM_UP, Fastest, Replayed


class Played:
    """`torch.cuda`, as far as it is used: while a graph is captured work is recorded and not done."""

    def __init__(self):
        self.work, self.events, self.capturing = [], [], None

    def Stream(self, device):  # noqa: N802
        return SimpleNamespace(wait_stream=lambda other: self.events.append("waits"))

    def current_stream(self, device):
        return self.Stream(device)

    @contextmanager
    def stream(self, stream):
        self.events.append("side stream")
        yield

    def CUDAGraph(self):  # noqa: N802
        graph = SimpleNamespace(recorded=[])
        graph.replay = lambda: self.work.extend(graph.recorded)
        return graph

    @contextmanager
    def graph(self, graph, stream, capture_error_mode):
        self.events.append("capture")
        self.capturing = graph
        try:
            yield
        except BaseException as error:
            raise RuntimeError("capture was invalidated") from error
        finally:
            self.capturing = None

    def does(self, name):
        (self.capturing.recorded if self.capturing else self.work).append(name)


@pytest.fixture
def played(monkeypatch):
    cuda = Played()
    for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    return cuda


def test_a_step_is_done_once_by_each_call_whether_warming_up_captured_or_replayed(played):
    step = Replayed(lambda: played.does("step"), torch.device("cuda"))
    for calls in range(1, WARM_UP + 5):
        assert step.warm == (calls > WARM_UP + 1)
        step()
        assert len(played.work) == calls
    assert played.events == ["waits", "side stream", "waits"] * WARM_UP + ["capture"]


def test_what_goes_wrong_in_a_capture_is_what_is_raised(played):
    def runs_out():
        if played.capturing:
            raise torch.OutOfMemoryError("CUDA out of memory")

    step = Replayed(runs_out, torch.device("cuda"))
    for _ in range(WARM_UP):
        step()
    with pytest.raises(torch.OutOfMemoryError):
        step()


def test_the_fastest_way_is_kept_and_every_call_does_the_work_once(monkeypatch):
    clock, done = [0.0], []
    monkeypatch.setattr(graphs.time, "perf_counter", lambda: clock[0])

    def way(name, seconds):
        def work():
            done.append(name)
            clock[0] += seconds

        return Replayed(work, torch.device("cpu"))

    fastest = Fastest({"slow": way("slow", 3.0), "quick": way("quick", 1.0)}, torch.device("cpu"))
    for calls in range(1, 2 * TIMED + 10):
        fastest()
        assert len(done) == calls
    assert fastest.chosen == "quick"
    assert fastest.warm
    assert done == ["slow"] * (TIMED + 1) + ["quick"] * (TIMED + 8)


def test_a_single_way_is_not_timed():
    only = Fastest({"only": Replayed(lambda: None, torch.device("cpu"))}, torch.device("cpu"))
    assert only.chosen == "only"
    assert not only.warm
    only()
    assert only.warm
