"""The work on one cell: what it consists of, and its files. What is to be done is said by its kind of study."""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

from prunus._version import __version__
from prunus.core.errors import Invalid
from prunus.core.seeds import generator
from prunus.core.summary import Layer
from prunus.data import DataSet
from prunus.kernels import native
from prunus.models import build
from prunus.studies.cells import Cell
from prunus.studies.store import Store
from prunus.tickets import Ticket
from prunus.tickets.ticket import snapshot
from prunus.training import History, Lane


class GivenUp(Invalid):
    """A cell cannot be done, nor any that depends on it; the others can."""


@dataclass(eq=False)
class Work:
    """A cell under way, or one that is done already if nothing is to be trained.

    Attributes:
        cell: what it is the work on.
        lane: what is to be trained; None where there is nothing.
        ticket: the masks, and the weights where others need them, that are filed; None files none.
        layers: one row for each prunable parameter; default those of the ticket's masks, none without a ticket.
        measures: numbers and words by name, JSON-able: what there is to report beside the training.
        after: more measures, of the model that was trained, which is in evaluation mode.
        found: the ticket, from the model that was trained, where training finds the masks.
        keep_trained: whether the trained weights are filed, since other cells need them.
        seconds: what it took beside the training.
    """

    cell: Cell
    lane: Lane | None = None
    ticket: Ticket | None = None
    layers: Sequence[Layer] = ()
    measures: Mapping[str, Any] = field(default_factory=dict)
    after: Callable[[nn.Module], Mapping[str, Any]] | None = None
    found: Callable[[nn.Module], Ticket] | None = None
    keep_trained: bool = False
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.ticket and not self.layers:
            self.layers = self.ticket.masks.layers

    @property
    def history(self) -> History | None:
        """What the training left behind; None where there was none."""
        return self.lane.history if self.lane else None

    def measure(self) -> None:
        """Take the measures of the trained model, and its masks where training has found them.

        Raises:
            GivenUp: if there is nothing to measure.
        """
        if not self.lane:
            return
        began = time.monotonic()
        if self.found:
            self.ticket = self.found(self.lane.model)
            self.layers = self.ticket.masks.layers
        if self.after:
            self.measures = {**self.measures, **self.after(self.lane.model)}
        self.seconds += time.monotonic() - began

    def file(self, store: Store) -> None:
        """Put the finished cell into `store`."""
        lane = self.lane
        device = lane.device if lane else torch.device(self.cell.identity.get("device", "cpu"))
        about = {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(self.seconds + (lane.seconds if lane else 0.0), 3),
            "environment": environment(device, self.cell.identity.get("threads")),
            "products": lane.products if lane else {},
        }
        trained = snapshot(lane.model) if lane and self.keep_trained else None
        store.add(self.cell, self.ticket, self.history, about, trained, layers=self.layers, measures=self.measures)


def new_model(cell: Cell, data: DataSet, *stream: object) -> nn.Module:
    """The cell's network, freshly initialised; `stream` names another draw than that of the trial."""
    name, width = cell.setting.model.name, cell.setting.model.width
    draw = generator(cell.seed, "initialisation", *stream)
    return build(name, data.input_shape, len(data.classes), width=width, generator=draw)


def check_model(cell: Cell, data: DataSet) -> nn.Module:
    """The cell's network, as a check that there can be one.

    Raises:
        Invalid: if it cannot be made for this data, or there is no memory for it.
    """
    model = cell.setting.model
    try:
        return new_model(cell, data)
    except (RuntimeError, MemoryError) as error:
        reason = (str(error).splitlines() or ["out of memory"])[0]
        what = f"model {model.name!r} of width {model.width}"
        raise Invalid(f"{cell.network}: {what} cannot be made ({reason})") from error


def environment(device: torch.device, threads: int | None = None) -> Mapping[str, Any]:
    """What the numbers may depend on besides the cell's identity.

    Args:
        device: what was computed on.
        threads: PyTorch's; default those of this thread.
    """
    return {
        "prunus": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": threads or torch.get_num_threads(),
        "kernels": module.instruction_set() if (module := native()) else "PyTorch's",
        "cores": os.cpu_count() or 0,
    }
