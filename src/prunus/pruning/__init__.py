"""From a model to masks in one call: criterion × schedule × scope."""

from prunus.pruning.criteria import CRITERIA, Criterion, Magnitude, Random, Scoring
from prunus.pruning.prune import prune

__all__ = ["CRITERIA", "Criterion", "Magnitude", "Random", "Scoring", "prune"]
