"""The cells of the lottery-ticket study.

A ticket of round r needs the weights that round r − 1 was trained to, a control needs the ticket whose densities it
shares. A cell's `start` is the cell whose trained weights it rewinds to (None: the initialisation), its `parent` the
ticket that was trained one round earlier, or that this control belongs to.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

from prunus.core.errors import Invalid
from prunus.data import DataSet
from prunus.studies.cells import Cell, shared_identity, trained_on
from prunus.studies.kinds.lottery_ticket.config import LotteryTicket, Setting
from prunus.training import Recipe
from prunus.training.recipe import in_iterations, learning_rate

#: `start` is the dense training up to the iteration that is rewound to; it is no row of the figure.
Arm = Literal["start", "ticket", "reinit", "shuffle", "random"]


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
    recipe = Recipe(**setting.train.__dict__).resolved(examples)
    if not retrain or setting.prune.retrain != "fine-tune":
        return recipe
    last = learning_rate(recipe, int(recipe.iterations) - 1)
    length = setting.prune.fine_tune if setting.prune.fine_tune is not None else recipe.iterations
    constant = {"lr": last, "iterations": length, "schedule": "constant", "milestones": (), "warmup": 0}
    return Recipe(**{**recipe.__dict__, **constant}).resolved(examples)


def _trial(study: LotteryTicket, name: str, setting: Setting, trial: int, data: DataSet) -> Iterator[Cell]:
    examples, prune = len(data.train), setting.prune
    recipe = recipe_of(setting, examples, retrain=False)
    rewind = in_iterations(prune.rewind, examples // recipe.batch, "prune.rewind")
    if rewind >= int(recipe.iterations):
        raise Invalid(f"prune.rewind is {prune.rewind!r}; allowed: below the {recipe.iterations} of train.iterations")
    # tickets were the first kind there was: their identities do not say which kind they are of
    common = shared_identity(study, setting, trial, data)

    def cell(arm: Arm, round_: int, start: str | None = None, parent: str | None = None) -> Cell:
        again = recipe_of(setting, examples, retrain=True) if round_ else recipe
        fine_tuned = bool(round_) and prune.retrain == "fine-tune"
        first = 0 if arm == "start" or fine_tuned else rewind
        last = rewind if arm == "start" else int(again.iterations)
        own = {"arm": arm, "round": round_, **trained_on(again, first, last)}
        if round_ and arm == "ticket":
            own["prune"] = prune.model_dump(mode="json", exclude={"rounds", "fine_tune", "rewind"})
        elif round_:
            own["retrain"] = prune.retrain
        elif prune.exclude:
            own["exclude"] = list(prune.exclude)
        identity = {**common, **own, "start": start, "parent": parent}
        density = (1 - prune.rate) ** round_
        return Cell(name, trial, round_, arm, setting, identity, start, parent, density=density)

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
