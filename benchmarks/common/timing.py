"""Timing ways of doing the same thing: in turn, in one process, and their medians."""

import statistics
import time
from collections.abc import Callable, Mapping


def medians(
    ways: Mapping[str, Callable[[], int]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds a piece of work of each way; a way returns how many pieces one call did.

    Args:
        ways: by name; the first call of each warms up and does not count.
        rounds: how often each is called after that, all in turn.
        clock: in seconds; `time.process_time` where the machine is shared and one thread is measured.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = clock()
            pieces = way()
            if number:
                seconds[name].append((clock() - began) / pieces)
    return {name: statistics.median(values) for name, values in seconds.items()}
