"""The grid of a study: its cells, each named by the hash of all that determines it.

A cell is one training. Cells form a graph: a ticket of round r needs the weights that round r − 1 was trained to, a
control needs the ticket whose densities it shares. A child's identity holds its parents' keys, so a change anywhere
renames everything that depends on it, and nothing else.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from prunus.core.errors import Invalid
from prunus.core.seeds import derive
from prunus.data import DataSet
from prunus.studies.config import LotteryTicket, Setting
from prunus.training import Recipe
from prunus.training.recipe import in_iterations

#: Raised when the numbers of a cell change for the same identity, so that old cells are not mistaken for new ones.
FORMAT = 2

#: `start` is the dense training up to the iteration that is rewound to; it is no row of the figure.
Arm = Literal["start", "ticket", "reinit", "shuffle", "random"]


@dataclass(frozen=True)
class Cell:
    """One training of a study.

    Attributes:
        network: the name of the variant.
        trial: which repetition, from 0.
        round: how many times the network was pruned.
        arm: the ticket, one of its controls, or the start that tickets are rewound to.
        setting: how it is trained and pruned.
        identity: all that determines its records, JSON-able.
        start: key of the cell whose trained weights this one rewinds to; None is the initialisation.
        parent: key of the ticket that was trained one round earlier, or that this control belongs to.
    """

    network: str
    trial: int
    round: int
    arm: Arm
    setting: Setting
    identity: Mapping[str, Any]
    start: str | None = None
    parent: str | None = None

    @cached_property
    def key(self) -> str:
        """The content hash of the identity: 20 hexadecimal digits."""
        text = json.dumps(self.identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def label(self) -> str:
        """The cell in words."""
        return f"{self.network} trial {self.trial} round {self.round} {self.arm}"

    @property
    def seed(self) -> int:
        """The seed of the trial."""
        return self.identity["seed"]

    @property
    def span(self) -> tuple[int, int]:
        """The iterations that are trained: from the first up to the second."""
        return tuple(self.identity["span"])


def expand(study: LotteryTicket, data: Mapping[str, DataSet]) -> list[Cell]:
    """All cells of `study`, parents before children; the first trial of every variant comes first.

    Args:
        study: resolved.
        data: the data set of each variant.
    """
    return [
        cell
        for trial in range(study.trials)
        for name, setting in study.variants.items()
        for cell in _trial(study, name, setting, trial, data[name])
    ]


def recipe_of(setting: Setting, examples: int, retrain: bool) -> Recipe:
    """The resolved recipe of a cell: that of the setting, but for fine-tuning at the schedule's last rate."""
    from prunus.training.recipe import learning_rate

    recipe = Recipe(**setting.train.__dict__).resolved(examples)
    if not retrain or setting.prune.retrain != "fine-tune":
        return recipe
    last = learning_rate(recipe, int(recipe.iterations) - 1)
    length = setting.prune.fine_tune if setting.prune.fine_tune is not None else recipe.iterations
    constant = {"lr": last, "iterations": length, "schedule": "constant", "milestones": (), "warmup": 0}
    return Recipe(**{**recipe.__dict__, **constant}).resolved(examples)


def _said(recipe: Recipe) -> dict[str, Any]:
    """The recipe without what came later than the format and says nothing new."""
    return {name: value for name, value in recipe.__dict__.items() if (name, value) != ("precision", "float32")}


def _trial(study: LotteryTicket, name: str, setting: Setting, trial: int, data: DataSet) -> Iterator[Cell]:
    examples, prune = len(data.train), setting.prune
    recipe = recipe_of(setting, examples, retrain=False)
    rewind = in_iterations(prune.rewind, examples // recipe.batch, "prune.rewind")
    if rewind >= int(recipe.iterations):
        raise Invalid(f"prune.rewind is {prune.rewind!r}; allowed: below the {recipe.iterations} of train.iterations")
    common = {
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

    def cell(arm: Arm, round_: int, start: str | None = None, parent: str | None = None) -> Cell:
        again = recipe_of(setting, examples, retrain=True) if round_ else recipe
        fine_tuned = bool(round_) and prune.retrain == "fine-tune"
        first = 0 if arm == "start" or fine_tuned else rewind
        last = rewind if arm == "start" else int(again.iterations)
        own = {"arm": arm, "round": round_, "train": _said(again), "span": [first, last]}
        if round_ and arm == "ticket":
            own["prune"] = prune.model_dump(mode="json", exclude={"rounds", "fine_tune", "rewind"})
        elif round_:
            own["retrain"] = prune.retrain
        elif prune.exclude:
            own["exclude"] = list(prune.exclude)
        identity = {**common, **own, "start": start, "parent": parent}
        return Cell(name, trial, round_, arm, setting, identity, start, parent)

    start = None
    if rewind:
        yield (origin := cell("start", 0))
        start = origin.key
    parent = None
    controls = range(1, prune.rounds + 1) if study.control_rounds is None else study.control_rounds
    for round_ in range(prune.rounds + 1):
        ticket = cell("ticket", round_, start, parent)
        yield ticket
        if round_ in controls:
            for arm in study.arms:
                yield cell(arm, round_, start, ticket.key)
        parent = ticket.key
