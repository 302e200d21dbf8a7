"""From a model to masks in one call: criterion × schedule × scope."""

from prunus.pruning.criteria import (
    CRITERIA,
    FORCE,
    SNIP,
    Criterion,
    GraSP,
    Inverted,
    IterativeSNIP,
    Magnitude,
    Random,
    Saliency,
    Scoring,
    SynFlow,
)
from prunus.pruning.prune import prune

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
    "prune",
]
