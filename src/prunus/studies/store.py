"""Where finished cells lie: one folder each, named by its key, complete or not there at all.

    results/
      cells/<key>/          cell.json  records.json  about.json  ticket.safetensors  trained.safetensors
      partial/              checkpoints of cells under way
      <study>/              study.yaml  cells.json  and the report

A cell of which there are no masks, or no weights that others need, lacks those files. `records.json` holds what the
cell's identity determines, bit for bit; `about.json` what it does not: when, how long, with which versions. Two studies
in one folder share the cells that they have in common.
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
from prunus.studies.cells import START, Cell
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

    def history(self, key: str) -> History | None:
        """What the cell's training left behind; None if there was none.

        Raises:
            Invalid: if the file is damaged.
        """
        folder = self.root / "cells" / key
        with _damaged(folder):
            records = json.loads((folder / "records.json").read_text(encoding="utf-8"))
            if "evaluations" not in records:
                return None
            evaluations = tuple(Evaluation(**_numbers(e)) for e in records["evaluations"])
            return History(evaluations, records["final"]["train_accuracy"])

    def partial(self, key: str) -> Path:
        """Where the cell leaves its checkpoint while it is trained."""
        return self.root / "partial" / f"{key}.safetensors"

    def add(
        self,
        cell: Cell,
        ticket: Ticket | None,
        history: History | None,
        about: Mapping[str, Any],
        trained: Mapping[str, Tensor] | None,
        *,
        layers: Sequence[Layer] | None = None,
        measures: Mapping[str, Any] | None = None,
    ) -> None:
        """File a finished cell, and remove its checkpoint.

        Args:
            cell: which.
            ticket: the masks, and weights, that it began with; None files none.
            history: of its training; None where there was none.
            about: what its identity does not determine.
            trained: the weights that it was trained to, if others need them.
            layers: one row for each prunable parameter; default those of the ticket's masks.
            measures: what else there is to report of it, JSON-able.
        """
        if layers is None:
            layers = ticket.masks.layers if ticket else ()
        records: dict[str, Any] = {
            "kept": sum(layer.kept for layer in layers),
            "total": sum(layer.total for layer in layers),
            "layers": [asdict(layer) for layer in layers],
        }
        if history:
            records["early_stop"], records["final"] = _plain(asdict(history.early_stop)), _plain(asdict(history.final))
            records["evaluations"] = [_plain(asdict(e)) for e in history.evaluations]
        if measures:
            records["measures"] = _plain(measures)
        path = self.root / "cells" / cell.key
        # what somebody has left of a cell, without its records; the folder is listed, since another machine may have
        # filed the cell just now, and a shared disk goes on for a while saying that a file is not there
        if path.is_dir() and "records.json" not in os.listdir(path):
            rmtree(path, ignore_errors=True)
        with new_folder(path) as folder:
            write_json(folder / "cell.json", cell.identity)
            write_json(folder / "records.json", records)
            write_json(folder / "about.json", about)
            if ticket is not None:
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
            rows = [row for row in plan["cells"] if row["arm"] != START]
            title, command = plan["title"], plan["command"]
        kind = str(config.get("study", "lottery-ticket"))
        done = tuple(self._result(row) for row in rows if self.has(row["key"]))
        return Results(name, title, done, len(rows), config, command, kind)

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
                **_training(records),
                seconds=about["seconds"],
                environment=about["environment"],
                products=about.get("products", {}),
                measures=_numbers(dict(records.get("measures", {}))),
            )


def _training(records: Mapping[str, Any]) -> dict[str, Any]:
    """What the records say of a training, if there was one."""
    if "evaluations" not in records:
        return {"early_stop": None, "final": None, "evaluations": ()}
    return {
        "early_stop": Outcome(**_numbers(records["early_stop"])),
        "final": Outcome(**_numbers(records["final"])),
        "evaluations": tuple(Evaluation(**_numbers(e)) for e in records["evaluations"]),
    }


#: JSON has no such numbers: they are written as words.
_WORDS = ("nan", "inf", "-inf")


def _plain(value: Any) -> Any:
    """The value as JSON can say it."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _numbers(value: Any) -> Any:
    """The inverse."""
    if isinstance(value, dict):
        return {name: _numbers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    return float(value) if isinstance(value, str) and value in _WORDS else value


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        what = str(error) if isinstance(error, Invalid) else f"{type(error).__name__}: {error}"
        raise Invalid(f"{path}: damaged ({what}); remove it, and `prunus run` makes it again") from error
