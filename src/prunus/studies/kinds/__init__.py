"""Kinds of study. One file, or small package, each, and one row here; `kind.py` says what a kind is."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prunus.core.registry import Table
from prunus.data import DataSet
from prunus.studies.cells import Cell
from prunus.studies.config import Study
from prunus.studies.kinds.conservation import CONSERVATION
from prunus.studies.kinds.fixed_budget import FIXED_BUDGET
from prunus.studies.kinds.hidden_network import HIDDEN_NETWORK
from prunus.studies.kinds.kind import Kind
from prunus.studies.kinds.lottery_ticket import LOTTERY_TICKET
from prunus.studies.kinds.mask_criteria import MASK_CRITERIA_STUDY
from prunus.studies.kinds.pai_sanity import PAI_SANITY
from prunus.studies.kinds.recipe import RECIPE
from prunus.studies.kinds.rounds import ROUNDS
from prunus.studies.kinds.same_ticket import SAME_TICKET
from prunus.studies.kinds.sparse_training import SPARSE_TRAINING
from prunus.studies.kinds.synflow_collapse import SYNFLOW_COLLAPSE
from prunus.studies.kinds.topology import TOPOLOGY
from prunus.studies.kinds.width import WIDTH
from prunus.studies.store import Store
from prunus.studies.work import Work
from prunus.training.lane import Watch

__all__ = ["KINDS", "STUDIES", "Kind", "begin", "expand"]

#: The kinds of study by name.
KINDS: Table[Kind] = Table(
    "study",
    {
        kind.name: kind
        for kind in (
            LOTTERY_TICKET,
            SYNFLOW_COLLAPSE,
            CONSERVATION,
            PAI_SANITY,
            ROUNDS,
            HIDDEN_NETWORK,
            WIDTH,
            FIXED_BUDGET,
            MASK_CRITERIA_STUDY,
            SAME_TICKET,
            SPARSE_TRAINING,
            TOPOLOGY,
            RECIPE,
        )
    },
    group="prunus.studies",
)


class _Presets(Mapping[str, Mapping[str, str]]):
    def __getitem__(self, name: str) -> Mapping[str, str]:
        return KINDS[name].presets

    def __iter__(self) -> Iterator[str]:
        return iter(KINDS)

    def __len__(self) -> int:
        return len(KINDS)


#: The presets of each kind of study, with what there is to say about them. The first preset is the default.
STUDIES: Mapping[str, Mapping[str, str]] = _Presets()


def expand(study: Study[Any], data: Mapping[str, DataSet]) -> Sequence[Cell]:
    """All cells of `study`, parents before children.

    Args:
        study: resolved.
        data: the data set of each variant.
    """
    return KINDS.look_up(study.study).expand(study, data)


def begin(cell: Cell, data: DataSet, store: Store, watch: Watch | None = None) -> Work:
    """The work on `cell`: in it lies what is to be trained; what is only computed is done.

    Args:
        cell: its parents are in `store`.
        data: its data, on the device to work on.
        store: where its parents lie and where it goes.
        watch: called with each evaluation.

    Raises:
        GivenUp: if this cell cannot be done.
        Invalid: if a file of its parents is damaged.
    """
    began = time.monotonic()
    work = KINDS.look_up(cell.kind).begin(cell, data, store, watch)
    work.seconds += time.monotonic() - began
    return work
