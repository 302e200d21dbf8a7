"""The grid of a study: its cells, each named by the hash of all that determines it.

A cell is one piece of work: it trains a network, or only computes something. Cells form a graph: a cell may need what
others were filed with. A child's identity holds its parents' keys, so a change anywhere renames everything that depends
on it, and nothing else.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from prunus.core.seeds import derive
from prunus.data import DataSet
from prunus.studies.config import BaseSetting, Study
from prunus.training import Recipe

#: Raised when the numbers of a cell change for the same identity, so that old cells are not mistaken for new ones.
FORMAT = 2

#: The arm of cells that others are made from and that are no part of the report.
START = "start"


@dataclass(frozen=True)
class Cell:
    """One piece of a study's work.

    Attributes:
        network: the name of the variant.
        trial: which repetition, from 0.
        round: its place along the axis of the study, such as how many times the network was pruned.
        arm: what of the things that the study compares; `START` is no part of the report.
        setting: that of the variant.
        identity: all that determines its records, JSON-able. It has the trial's "seed", and of a cell that trains
            "train" and "span" (see `trained_on`).
        start: key of a cell whose files it needs; None is none.
        parent: key of another such cell.
        kind: the name of the kind of study, which does the work.
        place: `round` in words; default "round 3".
        density: about which fraction of the weights is trained, for estimates of time.
    """

    network: str
    trial: int
    round: int
    arm: str
    setting: Any
    identity: Mapping[str, Any]
    start: str | None = None
    parent: str | None = None
    kind: str = "lottery-ticket"
    place: str = ""
    density: float = 1.0

    @cached_property
    def key(self) -> str:
        """The content hash of the identity: 20 hexadecimal digits."""
        text = json.dumps(self.identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def label(self) -> str:
        """The cell in words."""
        return f"{self.network} {self.about}"

    @property
    def about(self) -> str:
        """The cell in words, without its network."""
        return f"trial {self.trial} {self.place or f'round {self.round}'} {self.arm}"

    @property
    def parents(self) -> list[str]:
        """The keys of the cells that it needs."""
        return [key for key in (self.start, self.parent) if key]

    @property
    def seed(self) -> int:
        """The seed of the trial."""
        return self.identity["seed"]

    @property
    def trains(self) -> bool:
        """Whether a network is trained; else something is only computed."""
        return "span" in self.identity

    @property
    def span(self) -> tuple[int, int]:
        """The iterations that are trained: from the first up to the second; (0, 0) where nothing is trained."""
        first, last = self.identity.get("span", (0, 0))
        return first, last

    @property
    def iterations(self) -> int:
        """How many iterations are trained."""
        first, last = self.span
        return last - first

    @property
    def recipe(self) -> Recipe:
        """How it trains, resolved."""
        return Recipe(**self.identity["train"])


def shared_identity(study: Study[Any], setting: BaseSetting, trial: int, data: DataSet) -> dict[str, Any]:
    """What determines every cell of one variant and trial: seed, network, data, threads and device.

    A kind adds its own name, so that its cells are not mistaken for those of another kind, and all else that matters.
    """
    return {
        "format": FORMAT,
        "seed": derive(study.seed, "trial", trial),
        "model": {
            **setting.model.model_dump(),
            "input_shape": list(data.input_shape),
            "classes": len(data.classes),
        },
        "data": data.digest,
        **({} if setting.data.scale == "standard" else {"scale": setting.data.scale}),
        "threads": study.threads,
        "device": study.device.split(":")[0],
    }


def trained_on(recipe: Recipe, first: int = 0, last: int | None = None) -> dict[str, Any]:
    """The part of an identity that says how a cell trains.

    Args:
        recipe: resolved.
        first: iteration to begin at.
        last: iteration to end before; default the recipe's length.
    """
    # what came later than the format and says nothing new is left out
    said = {name: value for name, value in recipe.__dict__.items() if (name, value) != ("precision", "float32")}
    return {"train": said, "span": [first, int(recipe.iterations) if last is None else last]}


def work_of(cells: Iterable[Cell]) -> str:
    """How many cells there are to train and to compute, in words: "7 to train", "3 to compute"."""
    each = [cell.trains for cell in cells]
    train, compute = sum(each), len(each) - sum(each)
    parts = [f"{train} to train"] if train or not compute else []
    return ", ".join(parts + ([f"{compute} to compute"] if compute else []))
