import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

# A shell that runs the tests in the background has interrupts ignored. Every process started here would inherit that,
# and runs that a test interrupts would go on for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """The tests run side by side, and the same sums in another order are other sums."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """A function from the name of a data set to its folder; the test is skipped where it is not there.

    Looks in the folder named by the environment variable PRUNUS_DATA, else in ../shared/data.
    """

    def folder(name: str) -> Path:
        root = Path(__file__).parents[1]
        path = Path(os.environ.get("PRUNUS_DATA") or root.parent / "shared" / "data") / name
        if not path.is_dir():
            pytest.skip(f"no data in {path}: set PRUNUS_DATA to the folder that has {name!r}")
        return path

    return folder
