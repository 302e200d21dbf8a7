"""How many cores this process may use."""

import os


def available_cores() -> int:
    """The cores that the operating system lets this process use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1
