"""The loops that train the networks of a study."""

from prunus.training.evaluate import evaluate
from prunus.training.history import Evaluation, History, Outcome
from prunus.training.loop import Checkpointing, train
from prunus.training.recipe import Recipe

__all__ = ["Checkpointing", "Evaluation", "History", "Outcome", "Recipe", "evaluate", "train"]
