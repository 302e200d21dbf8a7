"""A study that takes a moment, and ways to run it and to look at what it left."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from prunus.core.files import read_tensors
from prunus.studies.cells import Cell
from prunus.studies.kinds.lottery_ticket import LotteryTicket
from prunus.studies.resolve import resolve
from prunus.studies.runner import Plan, prepare, run

SMALL = {
    "train.iterations": 20,
    "train.evaluate_every": 10,
    "prune.rounds": 2,
    "model.width": 0.1,
    "trials": 1,
    "control_rounds": None,
}


def small(**more: Any) -> LotteryTicket:
    """The quick preset, smaller; `train__lr=0.1` sets train.lr."""
    study = resolve("lottery-ticket", [*SMALL.items(), *((key.replace("__", "."), v) for key, v in more.items())])
    assert isinstance(study, LotteryTicket)
    return study


def options(**more: Any) -> list[str]:
    """The same as arguments of `prunus run lottery-ticket`."""
    settings = {**SMALL, **{key.replace("__", "."): value for key, value in more.items()}}
    return [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def finished(study: LotteryTicket, out: Path) -> Plan:
    """Run the study in this process, without a word."""
    plan = prepare(study, out)
    run(plan, "prunus run", quiet=True)
    return plan


def by_place(cells: tuple[Cell, ...] | list[Cell]) -> dict[tuple[int, int, str], Cell]:
    """The cells of a study of one network by trial, round and arm."""
    return {(cell.trial, cell.round, cell.arm): cell for cell in cells}


def start(*arguments: str, **how: Any) -> subprocess.Popen[str]:
    """`prunus …` in a process of its own."""
    environment = {**os.environ, "COLUMNS": "100"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return subprocess.Popen([sys.executable, "-m", "prunus.cli", *arguments], **{**pipes, **how})


def contents(out: Path) -> Mapping[str, Any]:
    """Everything that a cell's identity determines, by path: the same for equal results, and for no others."""
    there: dict[str, Any] = {}
    for path in sorted((out / "cells").rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.suffix == ".safetensors":
            tensors, metadata = read_tensors(path)
            there[name] = {n: _bits(t) for n, t in tensors.items()}, metadata
        elif path.is_file() and path.name != "about.json":
            there[name] = path.read_bytes()
    return there


def left_over(out: Path) -> list[str]:
    """Temporary files and folders that are still there."""
    return [str(path) for path in out.rglob(".*")]


def plain(text: str) -> str:
    """Terminal output without its colours and cursor movements."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def _bits(tensor: torch.Tensor) -> tuple[str, tuple[int, ...], bytes]:
    return str(tensor.dtype), tuple(tensor.shape), tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
