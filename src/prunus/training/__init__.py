"""The loops that train the networks of a study: one network, or many at once."""

from prunus.training.evaluate import evaluate
from prunus.training.history import Evaluation, History, Outcome
from prunus.training.lane import Lane, Method
from prunus.training.loop import Checkpointing, train
from prunus.training.recipe import Recipe
from prunus.training.stack import Stack, train_together

__all__ = [
    "Checkpointing",
    "Evaluation",
    "History",
    "Lane",
    "Method",
    "Outcome",
    "Recipe",
    "Stack",
    "evaluate",
    "train",
    "train_together",
]
