"""A step that is done again and again: replayed as a CUDA graph, and in the fastest of several ways.

A small network's step is many kernels of a few microseconds each, and launching them from Python takes longer than
they do. A CUDA graph records them once and launches all of them at once.

No GPU was at hand when this was written: what is here for CUDA follows PyTorch's documentation (CUDA semantics, "CUDA
Graphs", whole-network capture) and has not been run.
"""

import time
from collections.abc import Callable, Mapping

import torch

#: Calls before a capture, as PyTorch's documentation has it: libraries set themselves up in the first ones.
WARM_UP = 3
#: Calls of each way that are timed.
TIMED = 5


class Replayed:
    """A function of no arguments that works on tensors which stay where they are, called again and again.

    On CUDA the first calls run on a stream of their own and the next one is captured; from then on calls replay the
    graph. Every call does the work once. Elsewhere each call calls the function.

    Args:
        function: allocates what it needs, and never waits for the device.
        device: what it runs on.
    """

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        self._function, self._device = function, device
        self._calls = 0
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def warm(self) -> bool:
        """Whether the next call takes as long as all that follow."""
        return self._calls > 0 if self._stream is None else self._graph is not None

    def __call__(self) -> None:
        """Do the work."""
        self._calls += 1
        if self._stream is None:
            self._function()
        elif self._graph is not None:
            self._graph.replay()
        elif self._calls <= WARM_UP:
            current = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                self._function()
            current.wait_stream(self._stream)
        else:
            self._graph = self._capture(self._stream)
            self._graph.replay()

    def _capture(self, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        graph, failure = torch.cuda.CUDAGraph(), None
        try:
            # the stream of the warm-up: libraries keep a handle for each stream. Other threads may go on using the
            # device (a study files its cells from one)
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                try:
                    self._function()
                except BaseException as error:
                    failure = error
                    raise
        except RuntimeError:
            # that a capture was cut short is no news where its function failed
            if failure is not None:
                raise failure from None
            raise
        return graph


class Fastest:
    """Does the same thing in several ways, each for its first calls, and from then on in the fastest.

    Args:
        ways: by name; at least one.
        device: what they run on.
    """

    def __init__(self, ways: Mapping[str, Replayed], device: torch.device) -> None:
        self._device = device
        self._left = list(ways.items())
        self._times: dict[str, list[float]] = {name: [] for name in ways}
        self._best: tuple[str, Replayed] | None = self._left[0] if len(ways) == 1 else None

    @property
    def chosen(self) -> str | None:
        """The fastest way's name, as soon as it is known."""
        return self._best[0] if self._best else None

    @property
    def warm(self) -> bool:
        """Whether the next call takes as long as all that follow."""
        return self._best is not None and self._best[1].warm

    def __call__(self) -> None:
        """Do the thing once."""
        if self._best is not None:
            self._best[1]()
            return
        name, way = self._left[0]
        if not way.warm:
            way()
            return
        synchronize(self._device)
        began = time.perf_counter()
        way()
        synchronize(self._device)
        self._times[name].append(time.perf_counter() - began)
        if len(self._times[name]) == TIMED:
            self._left.append(self._left.pop(0))
            if self._times[self._left[0][0]]:
                self._best = min(self._left, key=lambda way: min(self._times[way[0]]))
                self._left = []


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
