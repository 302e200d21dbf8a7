"""Criteria: what gives scores. One file each, and one row here."""

from prunus.core.registry import Table
from prunus.pruning.criteria.magnitude import Magnitude
from prunus.pruning.criteria.random import Random
from prunus.pruning.criteria.scoring import Criterion, Scoring

__all__ = ["CRITERIA", "Criterion", "Magnitude", "Random", "Scoring"]

#: The criteria by name; a row called with a criterion's options makes one.
CRITERIA: Table[type[Criterion]] = Table(
    "criterion", {"magnitude": Magnitude, "random": Random}, group="prunus.criteria"
)
