"""`prunus run … --launch N`: N processes of the same command on this machine, which train each network together.

They are started as torchrun starts them, by PyTorch's elastic agent, and each finds its place in its environment.
Where it stands there already (`torchrun … -m prunus run … --launch auto`, on one machine or many), nothing is started:
this process is one of them. What each of them does is in `prunus.studies.rank`.
"""

import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

from prunus.core.errors import Invalid

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

    from prunus.studies.config import Study

#: In the environment of the processes that are started here: the process that started them.
STARTED_BY = "PRUNUS_STARTED_BY"
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
#: Seconds that the processes have to end by themselves after an interrupt.
_GRACE = 10


class Lost(Exception):
    """One of the processes has ended before its time, and the others with it."""


def in_group() -> bool:
    """Whether this process is one of several that were started together."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def started_here() -> bool:
    """Whether this process was started by `start`."""
    return in_group() and STARTED_BY in os.environ


def check_launch(launch: str, study: "Study[Any]") -> int:
    """How many processes of this machine `--launch` asks for.

    Args:
        launch: a number, or "auto" for one on each GPU, or for as many as there are cores for.
        study: resolved.

    Raises:
        Invalid: if it asks for what is not there, or accelerate is not installed.
    """
    from prunus.training.cores import available_cores
    from prunus.training.processes import check_accelerate

    if launch != "auto" and not (launch.isdecimal() and int(launch) > 0):
        raise Invalid(f"--launch is {launch!r}; allowed: auto, or a number of processes of at least 1")
    if study.device not in ("cpu", "cuda"):
        raise Invalid(f"device is {study.device!r} with --launch; allowed: cpu, or cuda, of which each process has one")
    check_accelerate()
    cores, gpus = available_cores(), _gpus() if study.device == "cuda" else None
    most = cores // study.threads if gpus is None else gpus
    count = max(1, most) if launch == "auto" else int(launch)
    world = count
    if in_group():
        world = int(os.environ["WORLD_SIZE"])
        count = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        if launch != "auto" and int(launch) not in (count, world):
            raise Invalid(f"--launch is {launch}, but {world} processes were started from outside; allowed: auto")
    if gpus is not None and count > gpus:
        raise Invalid(
            f"--launch {launch} needs {count} GPUs on this machine; allowed: at most the {gpus} that are here"
        )
    if count * study.threads > cores:
        raise Invalid(
            f"--launch {launch} with threads={study.threads} needs {count * study.threads} cores; "
            f"allowed: at most the {cores} that this process may use"
        )
    for name, setting in study.variants.items():
        train = getattr(setting, "train", None)  # some kinds of study only compute
        if train and train.batch < world:
            raise Invalid(f"{name}: train.batch is {train.batch}; allowed with {world} processes: at least {world}")
    return count


def start(count: int, threads: int, arguments: Sequence[str]) -> None:
    """Run `prunus` with `arguments` in `count` processes, and wait for them.

    Process 0 prints where this one does; its warnings are printed at the end. The others print nothing.

    Args:
        count: how many.
        threads: how many threads each of them uses.
        arguments: of the command line.

    Raises:
        Invalid: with the line of a process that met bad input.
        Lost: if a process has died.
        KeyboardInterrupt: if this one is interrupted.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    failures, ended_by = None, None
    with TemporaryDirectory(prefix="prunus-launch-") as logs, _surroundings(threads):
        options = [f"-W{option}" for option in sys.warnoptions]
        try:
            # -P: a folder called prunus where the command is given is not the package
            elastic_launch(_config(count, logs), sys.executable)(*options, "-P", "-m", "prunus", *arguments)
        except ChildFailedError as error:
            failures = error.failures
        except SignalException as error:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second ctrl-c would cut what follows short
            ended_by = error.sigval
        except RendezvousError as error:
            raise Invalid(f"--launch: the processes cannot meet on this machine ({error})") from error
        if ended_by is None:
            _relay(Path(logs), 0)
        if failures is not None:
            _ended(failures, count, Path(logs))
    if ended_by == signal.SIGINT:
        raise KeyboardInterrupt
    if ended_by is not None:
        signal.signal(ended_by, signal.SIG_DFL)
        os.kill(os.getpid(), ended_by)


def tell_starter(message: str, code: int) -> NoReturn:
    """End this process, which `start` has started, with what is to be printed there."""
    now = str(int(time.time()))
    told = {"message": {"message": message, "extraInfo": {"py_callstack": message, "timestamp": now}}}
    Path(os.environ[_ERROR_FILE]).write_text(json.dumps(told), encoding="utf-8")
    with suppress(OSError):
        sys.stdout.flush()
    # at once: libraries that would part from the other processes now might wait for them
    os._exit(code)


def end_with_starter() -> None:
    """From now on, end when the process that started this one is gone, however it went."""
    starter = int(os.environ[STARTED_BY])

    def watch() -> None:
        while os.getppid() == starter:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _config(count: int, logs: str) -> "LaunchConfig":
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any free port
        local_addr="127.0.0.1",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(logs, redirects={0: Std.ERR, **dict.fromkeys(range(1, count), Std.ALL)}),
    )
    if hasattr(config, "shutdown_timeout"):  # newer than the oldest PyTorch that Prunus takes
        config.shutdown_timeout = _GRACE
    return config


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _ended(failures: Mapping[int, Any], count: int, logs: Path) -> NoReturn:
    """Say why the processes have ended: which was first to go, and what it said."""
    # those that were ended because another had failed come later, or say nothing and went by the signal for it
    own = [rank for rank, failure in failures.items() if failure.exitcode != -signal.SIGTERM]
    rank = (own or list(failures))[0]
    failure = failures[rank]
    told = failure.message.get("message", "") if isinstance(failure.message, dict) else ""
    if failure.exitcode == 130:
        raise KeyboardInterrupt
    if told and failure.exitcode == 2:
        raise Invalid(told)
    if failure.exitcode < 0:
        how = f"was killed by {failure.signal_name()}"
    else:
        how = told or f"ended with exit code {failure.exitcode}"
        if rank:
            _relay(logs, rank)
    raise Lost(f"process {rank} of {count} (counted from 0) {how}")


def _relay(logs: Path, rank: int) -> None:
    """Print what a process has written to stderr: warnings, or what no process should end with."""
    for log in logs.glob(f"*/attempt_*/{rank}/stderr.log"):
        print(log.read_text(encoding="utf-8", errors="replace"), end="", file=sys.stderr)


@contextmanager
def _surroundings(threads: int) -> Iterator[None]:
    """What the processes inherit; and this process as it was, when they have ended."""
    before, handlers = dict(os.environ), {s: signal.getsignal(s) for s in _signals()}
    os.environ |= {STARTED_BY: str(os.getpid()), "OMP_NUM_THREADS": str(threads)}
    if loopback := next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    logging.disable()  # the agent's account of each process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # the agent leaves its log files open
            try:
                yield
            finally:
                gc.collect()
    finally:
        logging.disable(logging.NOTSET)
        os.environ.clear()
        os.environ.update(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if sys.stdout.isatty():
            print("\x1b[?25h", end="", flush=True)  # the cursor, which a process that was killed may have hidden


def _signals() -> list[signal.Signals]:
    return [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]
