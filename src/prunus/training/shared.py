"""`SharedStack`: the training loop in each of several processes that train one network together."""

from prunus.training.engines.distributed import DistributedEngine
from prunus.training.processes import Processes
from prunus.training.stack import Stack


class SharedStack(Stack):
    """A stack of one lane, which every process has, and in which all of them do the same.

    Checkpoints are read by all processes and written by process 0. It reads and writes a lane's file in one place of
    the loop each, with an exchange between all processes in between, so that none reads what another is writing.

    Args:
        processes: that train together; each must add the same lanes in the same order.
        checkpoint_every: seconds between the checkpoints of lanes that have a place for one.
    """

    def __init__(self, processes: Processes, *, checkpoint_every: float = 60.0) -> None:
        super().__init__(size=1, checkpoint_every=checkpoint_every, engine=DistributedEngine(processes))
        self._processes = processes

    def _train(self) -> None:
        super()._train()
        # each measures another time, and all must train as many iterations at a time
        self._chunk = self._processes.agreed(self._chunk)

    def _save(self) -> None:
        if self._processes.rank == 0:
            super()._save()
