"""Who is to train a study: what `--workers` asks for, and how many workers there is room for."""

import importlib.util
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prunus.core.errors import Invalid
from prunus.training.cores import available_cores


@dataclass(frozen=True)
class Where:
    """What `--workers` asks for.

    Attributes:
        count: how many workers, on this machine; None is as many as there is room for.
        address: of a cluster that is there already; None is this machine.
    """

    count: int | None = None
    address: str | None = None


@dataclass(frozen=True)
class Crew:
    """How many workers there are to be, and what each may use.

    Attributes:
        count: how many.
        cores: of each.
        gpus: of each; a fraction where several share one.
        memory: bytes that each needs, by which a cluster gives them places; 0 where that is settled.
    """

    count: int
    cores: int
    gpus: float = 0.0
    memory: int = 0


#: The address of a cluster: a host and a port.
ADDRESS = re.compile(r"(?:ray://)?(\[[0-9a-fA-F:.]+\]|[\w.-]+):(\d{1,5})")
_ALLOWED = (
    "allowed: a number of processes here (at least 1), auto, or a Ray cluster's address as ray://HOST:PORT or HOST:PORT"
)


def where_to(text: str) -> Where:
    """Read `--workers`.

    Raises:
        Invalid: if it is neither a number, nor `auto`, nor an address, or Ray is not installed.
    """
    if re.fullmatch(r"[+-]?\d{1,9}", text):
        if int(text) < 1:
            raise Invalid(f"--workers is {text}; {_ALLOWED}")
        where = Where(count=int(text))
    elif text == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
        if address and not _is_address(address):
            raise Invalid(f"--workers is 'auto' and RAY_ADDRESS is {address!r}; allowed: ray://HOST:PORT or HOST:PORT")
        where = Where(address=address or None)
    elif _is_address(text):
        where = Where(address=text)
    else:
        raise Invalid(f"--workers is {text!r}; {_ALLOWED}")
    needs = ["ray", "grpc"] if (where.address or "").startswith("ray://") else ["ray"]
    if missing := [name for name in needs if importlib.util.find_spec(name) is None]:
        raise Invalid(f"--workers {text} needs {'Ray' if missing[0] == 'ray' else 'grpcio'}: install prunus[ray]")
    return where


def _is_address(text: str) -> bool:
    found = ADDRESS.fullmatch(text)
    return found is not None and 0 < int(found[2]) < 65536


def crew_here(where: Where, device: str, threads: int, cells: int, need: int) -> Crew:
    """The workers on this machine, which share its cores and GPUs.

    Args:
        where: how many are asked for.
        device: that of the study.
        threads: PyTorch's, of one training.
        cells: how many there are to train; more workers than that would have nothing to do.
        need: the memory that a worker needs, in bytes.

    Raises:
        Invalid: if there are more workers than cores or memory allow.
    """
    gpus = _gpus_here() if _on_gpu(device) else 0
    cores = available_cores()
    most = max(1, cores // threads)
    if where.count is not None and where.count > most:
        each = f", and each training takes {threads} threads" if threads > 1 else ""
        raise Invalid(f"--workers is {where.count}; allowed: up to {most}, since {cores} cores are here{each}")
    wanted = min(where.count or (min(gpus, most) if gpus else most), max(1, cells))
    free = available_memory()
    fit = wanted if free is None else max(1, min(wanted, free // need))
    if fit < wanted and where.count is not None:
        raise Invalid(
            f"--workers is {where.count}; allowed: up to {fit}, since each needs about {_gigabytes(need)} of memory "
            f"and {_gigabytes(free or 0)} are free"
        )
    # four decimals are what Ray counts in
    return Crew(fit, max(1, cores // fit), min(1.0, int(gpus / fit * 10_000) / 10_000))


def crew_there(
    nodes: Sequence[Mapping[str, float]], address: str, device: str, threads: int, cells: int, need: int
) -> Crew:
    """The workers on a cluster: one for each GPU, or for as many cores as one training takes threads.

    Args:
        nodes: what Ray says that each machine has: `CPU`, `GPU`, and `memory` in bytes.
        address: of the cluster.
        device: that of the study.
        threads: PyTorch's, of one training.
        cells: how many there are to train.
        need: the memory that a worker needs, in bytes.

    Raises:
        Invalid: if there is no room for a single worker.
    """
    on_gpu = _on_gpu(device)
    fitting = [node for node in nodes if node.get("CPU", 0) >= 1 and (not on_gpu or node.get("GPU", 0) >= 1)]
    if on_gpu and not fitting:
        raise Invalid(f"device is {device!r}; the cluster at {address} has no GPU; allowed: cpu")
    cores = threads
    if on_gpu:
        cores = max(1, min(int(node["CPU"] // node["GPU"]) for node in fitting))
    fitting = [node for node in fitting if node["CPU"] >= cores]
    if not fitting:
        many = f"{cores} cores" if cores > 1 else "core"
        raise Invalid(f"--workers {address}: no machine of the cluster has the {many} that a worker needs")
    roomy = [node for node in fitting if node.get("memory", 0) >= need]
    if not roomy:
        most = max(node.get("memory", 0) for node in fitting)
        raise Invalid(
            f"--workers {address}: a worker needs about {_gigabytes(need)} of memory, and no machine of the cluster "
            f"has more than {_gigabytes(most)}"
        )
    places = (min(node["CPU"] // cores, node["memory"] // need, node["GPU"] if on_gpu else cells) for node in roomy)
    return Crew(max(1, min(cells, int(sum(places)))), cores, float(on_gpu), need)


def _on_gpu(device: str) -> bool:
    if device not in ("cpu", "cuda"):
        raise Invalid(f"device is {device!r}; allowed with --workers: cpu, or cuda, of which each worker gets its own")
    return device == "cuda"


def _gpus_here() -> int:
    import torch

    return torch.cuda.device_count()


def memory_of_a_worker() -> int:
    """The bytes that a process takes which has PyTorch and the study's data: as many as this one took at most."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_memory() -> int | None:
    """The bytes of memory that programs may still take here; None where the system does not say."""
    free: list[int] = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):  # a container's share; "max" is no limit
        group = Path("/sys/fs/cgroup")
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(free, default=None)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
