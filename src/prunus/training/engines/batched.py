"""Placeholder until written."""

from prunus.training.engines.single import SingleEngine
from prunus.training.lane import Lane


class BatchedEngine(SingleEngine):
    @staticmethod
    def can(lane: Lane) -> bool:
        return False
