"""The cells of the mask-criteria study.

The dense network is trained once in each trial. From it each criterion goes its own way: the masks of a round come from
the initial weights and from what the round before was trained to. An action is tried on the masks of a round.

A criterion's cell has as `parent` its round before, or the dense network. An action's cell has as `parent` the cell
whose masks it takes, and as `start` the parent of that; its identity says as `line` all cells from the dense network to
`start`, since a pruned weight was last trained in one of them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from prunus.data import DataSet
from prunus.studies.cells import Cell, shared_identity, trained_on
from prunus.studies.kinds.mask_criteria.config import MaskCriteria, Setting
from prunus.training import Recipe


def expand(study: MaskCriteria, data: Mapping[str, DataSet]) -> list[Cell]:
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


def _trial(study: MaskCriteria, name: str, setting: Setting, trial: int, data: DataSet) -> Iterator[Cell]:
    recipe = Recipe(**setting.train.__dict__).resolved(len(data.train))
    shared = {**shared_identity(study, setting, trial, data), "study": study.study, **trained_on(recipe)}
    rates = setting.prune.model_dump(mode="json", exclude={"rounds", "exclude"})
    shared["exclude"] = list(setting.prune.exclude)

    def cell(arm: str, round_: int, own: Mapping[str, Any], start: Cell | None, parent: Cell | None) -> Cell:
        started, pruned = start.key if start else None, parent.key if parent else None
        identity = {**shared, "arm": arm, "round": round_, **own, "start": started, "parent": pruned}
        # frozen weights that are not zero take part in every product
        density = (1 - setting.prune.rate) ** round_ if own.get("zero", "zero") == "zero" else 1.0
        return Cell(name, trial, round_, arm, setting, identity, started, pruned, kind=study.study, density=density)

    def of(criterion: str, one: str = "rewind", zero: str = "zero") -> dict[str, Any]:
        return {"criterion": criterion, "one": one, "zero": zero, "prune": rates}

    yield (dense := cell("dense", 0, {}, None, None))
    lines = {criterion: [dense] for criterion in study.criteria}
    criterion = study.actions_of
    actions = [(one, of(criterion, one=one)) for one in study.one_actions]
    actions += [(zero, of(criterion, zero=zero)) for zero in study.zero_actions]
    for round_ in range(1, setting.prune.rounds + 1):
        for name_, line in lines.items():
            line.append(cell(name_, round_, of(name_), None, line[-1]))
            yield line[-1]
        for action, own in actions:
            *before, start, ticket = lines[criterion]
            keys = [earlier.key for earlier in (*before, start)]
            yield cell(action, round_, {**own, "line": keys}, start, ticket)
