"""Criteria: what gives scores. One file each, and one row here."""

from prunus.core.registry import Table
from prunus.pruning.criteria.force import FORCE
from prunus.pruning.criteria.grasp import GraSP
from prunus.pruning.criteria.inverted import Inverted
from prunus.pruning.criteria.iterative_snip import IterativeSNIP
from prunus.pruning.criteria.magnitude import Magnitude
from prunus.pruning.criteria.random import Random
from prunus.pruning.criteria.saliency import Saliency
from prunus.pruning.criteria.scoring import Criterion, Scoring
from prunus.pruning.criteria.snip import SNIP
from prunus.pruning.criteria.synflow import SynFlow

__all__ = [
    "CRITERIA",
    "FORCE",
    "SNIP",
    "Criterion",
    "GraSP",
    "Inverted",
    "IterativeSNIP",
    "Magnitude",
    "Random",
    "Saliency",
    "Scoring",
    "SynFlow",
]

#: The criteria by name; a row called with a criterion's options makes one.
CRITERIA: Table[type[Criterion]] = Table(
    "criterion",
    {
        "magnitude": Magnitude,
        "random": Random,
        "saliency": Saliency,
        "snip": SNIP,
        "iterative-snip": IterativeSNIP,
        "force": FORCE,
        "grasp": GraSP,
        "synflow": SynFlow,
    },
    group="prunus.criteria",
)
