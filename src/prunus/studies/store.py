"""Where finished cells lie: one folder each, named by its key, complete or not there at all.

    results/
      cells/<key>/          cell.json  records.json  about.json  ticket.safetensors  trained.safetensors
      partial/              checkpoints of cells under way
      <study>/              study.yaml  cells.json  and the report

`records.json` holds what the cell's identity determines, bit for bit; `about.json` what it does not: when, how long,
with which versions. Two studies in one folder share the cells that they have in common.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from shutil import rmtree
from typing import Any

import yaml
from torch import Tensor

from prunus.core.errors import Invalid, nearest
from prunus.core.files import new_folder, read_tensors, write_json, write_tensors, write_text
from prunus.core.summary import Layer
from prunus.studies.cells import Cell
from prunus.studies.results import CellResult, Results
from prunus.tickets import Ticket
from prunus.training import Evaluation, History, Outcome


@dataclass(frozen=True)
class Store:
    """The results folder of one or more studies."""

    root: Path

    def has(self, key: str) -> bool:
        """Whether the cell is finished."""
        return (self.root / "cells" / key / "records.json").is_file()

    def ticket(self, key: str) -> Ticket:
        """The ticket that the cell was trained from (a control's has masks only).

        Raises:
            Invalid: if the file is damaged.
        """
        folder = self.root / "cells" / key
        with _damaged(folder):
            return Ticket.load(folder / "ticket.safetensors")

    def trained(self, key: str) -> dict[str, Tensor]:
        """The state_dict that the cell was trained to.

        Raises:
            Invalid: if the file is damaged.
        """
        folder = self.root / "cells" / key
        with _damaged(folder):
            return read_tensors(folder / "trained.safetensors")[0]

    def history(self, key: str) -> History:
        """What the cell's training left behind.

        Raises:
            Invalid: if the file is damaged.
        """
        folder = self.root / "cells" / key
        with _damaged(folder):
            records = json.loads((folder / "records.json").read_text(encoding="utf-8"))
            evaluations = tuple(Evaluation(**_numbers(e)) for e in records["evaluations"])
            return History(evaluations, records["final"]["train_accuracy"])

    def partial(self, key: str) -> Path:
        """Where the cell leaves its checkpoint while it is trained."""
        return self.root / "partial" / f"{key}.safetensors"

    def add(
        self,
        cell: Cell,
        ticket: Ticket,
        history: History,
        about: Mapping[str, Any],
        trained: Mapping[str, Tensor] | None,
    ) -> None:
        """File a finished cell, and remove its checkpoint."""
        records = {
            "kept": ticket.masks.kept,
            "total": ticket.masks.total,
            "layers": [asdict(layer) for layer in ticket.masks.layers],
            "early_stop": _plain(history.early_stop),
            "final": _plain(history.final),
            "evaluations": [_plain(e) for e in history.evaluations],
        }
        path = self.root / "cells" / cell.key
        # what somebody has left of a cell, without its records; the folder is listed, since another machine may have
        # filed the cell just now, and a shared disk goes on for a while saying that a file is not there
        if path.is_dir() and "records.json" not in os.listdir(path):
            rmtree(path, ignore_errors=True)
        with new_folder(path) as folder:
            write_json(folder / "cell.json", cell.identity)
            write_json(folder / "records.json", records)
            write_json(folder / "about.json", about)
            ticket.save(folder / "ticket.safetensors")
            if trained is not None:
                write_tensors(folder / "trained.safetensors", trained, {"cell": cell.key})
        self.partial(cell.key).unlink(missing_ok=True)

    def plan(self, name: str, study: str, title: str, command: str, cells: Sequence[Cell]) -> None:
        """Write down which cells the study called `name` consists of."""
        rows = [{"key": c.key, "network": c.network, "trial": c.trial, "round": c.round, "arm": c.arm} for c in cells]
        write_text(self.root / name / "study.yaml", study)
        write_json(self.root / name / "cells.json", {"title": title, "command": command, "cells": rows})

    def studies(self) -> list[str]:
        """The names of the studies in this folder."""
        return sorted(path.parent.name for path in self.root.glob("*/cells.json"))

    def results(self, name: str) -> Results:
        """What is finished of the study called `name`.

        Raises:
            Invalid: if there is no such study here, or a file of it is damaged.
        """
        if name not in self.studies():
            raise Invalid(f"{self.root}: holds no study {name!r}; {nearest(name, self.studies())}")
        folder = self.root / name
        with _damaged(folder / "study.yaml"):
            config = dict(yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8")))
        with _damaged(folder / "cells.json"):
            plan = json.loads((folder / "cells.json").read_text(encoding="utf-8"))
            rows = [row for row in plan["cells"] if row["arm"] != "start"]
            title, command = plan["title"], plan["command"]
        done = tuple(self._result(row) for row in rows if self.has(row["key"]))
        return Results(name, title, done, len(rows), config, command)

    def _result(self, row: Mapping[str, Any]) -> CellResult:
        folder = self.root / "cells" / row["key"]
        with _damaged(folder):
            records = json.loads((folder / "records.json").read_text(encoding="utf-8"))
            about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
            return CellResult(
                **row,
                kept=records["kept"],
                total=records["total"],
                layers=tuple(Layer(r["name"], tuple(r["shape"]), r["kept"]) for r in records["layers"]),
                early_stop=Outcome(**_numbers(records["early_stop"])),
                final=Outcome(**_numbers(records["final"])),
                evaluations=tuple(Evaluation(**_numbers(e)) for e in records["evaluations"]),
                seconds=about["seconds"],
                environment=about["environment"],
                products=about.get("products", {}),
            )


def _plain(record: Evaluation | Outcome) -> dict[str, Any]:
    """The record as JSON, which has no NaN: a loss that is not finite is written as a word."""
    return {n: str(v) if isinstance(v, float) and not isfinite(v) else v for n, v in asdict(record).items()}


def _numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    return {n: float(v) if isinstance(v, str) else v for n, v in record.items()}


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        what = str(error) if isinstance(error, Invalid) else f"{type(error).__name__}: {error}"
        raise Invalid(f"{path}: damaged ({what}); remove it, and `prunus run` makes it again") from error
