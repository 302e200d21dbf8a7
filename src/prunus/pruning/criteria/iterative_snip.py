"""Iterative SNIP: SNIP again and again, of the network that is left."""

from dataclasses import dataclass
from typing import ClassVar

from prunus.pruning.criteria.snip import SNIP


@dataclass(frozen=True)
class IterativeSNIP(SNIP):
    """SNIP scored anew in each of 60 rounds, with an exponential schedule; what is pruned stays pruned.

    De Jorge et al., "Progressive skeletonization: trimming more fat from a network at initialization", 2021, ICLR.
    """

    rounds: ClassVar[int] = 60
    schedule: ClassVar[str] = "exponential"
