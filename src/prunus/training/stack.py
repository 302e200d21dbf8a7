"""`Stack`: the training loop. A single model is a stack of one.

Lanes join and leave at any time: each has its own data order, learning rate, iteration and records, and none depends
on which others are in the stack. How they are computed is an engine's business (`prunus.training.engines`); what
happens to them (evaluations, early stops, checkpoints, ends) is the same for all and is decided here.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from prunus.core.errors import Invalid
from prunus.training.checkpoint import load_checkpoint, save_checkpoint
from prunus.training.cores import available_cores
from prunus.training.engines import Engine, engine_for, fastest
from prunus.training.history import Evaluation, History, earliest_minimum
from prunus.training.lane import Lane

#: Seconds that the engine is left alone for: as long as an interrupt or a checkpoint may have to wait.
AWAY = 1.0


class Stack:
    """Lanes that train together.

    Args:
        cores: how many cores to use; default all that this process may use.
        size: the most lanes to have at once; default what the engine finds best.
        checkpoint_every: seconds between the checkpoints of lanes that have a place for one.
        engine: how to compute; default the fastest that takes the first lane.
    """

    def __init__(
        self,
        *,
        cores: int | None = None,
        size: int | None = None,
        checkpoint_every: float = 60.0,
        engine: Engine | None = None,
    ) -> None:
        self.lanes: list[Lane] = []
        self.engine, self._given = engine, engine is not None
        self._waiting: deque[Lane] = deque()
        self._cores = cores or available_cores()
        self._size = size
        self._every, self._saved = checkpoint_every, time.monotonic()
        self._chunk = 100

    def takes(self, lane: Lane) -> bool:
        """Whether `lane` may join those that are here."""
        if self.engine is None:
            return True
        return (self._given or type(self.engine) is fastest(lane)) and self.engine.takes(lane)

    @property
    def busy(self) -> bool:
        """Whether there is a lane that is not finished."""
        return bool(self.lanes or self._waiting)

    @property
    def room(self) -> int:
        """How many more lanes there is room for."""
        if self.engine is None:
            return 1
        most = self.engine.room if self._size is None else self._size
        return max(0, most - len(self.lanes) - len(self._waiting))

    def add(self, lane: Lane) -> None:
        """Let `lane` join as soon as there is room; a checkpoint that it left is gone on from."""
        if self.engine is None:
            self.engine = engine_for(lane, self._cores)
        self._waiting.append(lane)

    def advance(self) -> list[Lane]:
        """Train every lane on, at most to its next evaluation; the lanes that are finished, which have left.

        Raises:
            Invalid: if a lane does not fit into memory even alone, or its checkpoint is not its own.
        """
        began = time.monotonic()
        try:
            self.admit()
            self._train()
            self._evaluate([lane for lane in self.lanes if _is_due(lane)])
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            self._halve(error)
            return []
        finished = [lane for lane in self.lanes if lane.finished]
        share = (time.monotonic() - began) / max(1, len(self.lanes))
        for lane in self.lanes:
            lane.seconds += share
        self._dismiss(finished)
        if time.monotonic() - self._saved >= self._every:
            self._save()
        return finished

    def admit(self) -> None:
        """Let those that wait join, as far as there is room."""
        assert self.engine is not None
        most = self.engine.room if self._size is None else self._size
        while self._waiting and len(self.lanes) < max(1, most):
            lane = self._waiting.popleft()
            state = load_checkpoint(lane)
            self.lanes.append(lane)
            self.engine.join(lane, state)
            for evaluation in lane.evaluations if lane.watch else ():
                assert lane.watch
                lane.watch(evaluation)

    def _train(self) -> None:
        assert self.engine is not None
        steps = [min(lane.next_evaluation - lane.iteration, self._chunk) for lane in self.lanes]
        began = time.monotonic()
        self.engine.advance(self.lanes, steps)
        for lane, count in zip(self.lanes, steps, strict=True):
            lane.iteration += count
        if steps:
            each = (time.monotonic() - began) / max(steps)
            self._chunk = max(1, int(AWAY / max(each, 1e-6)))

    def _evaluate(self, lanes: Sequence[Lane]) -> None:
        """Add an evaluation to each; the test set is looked at where validation is best so far, or at the end."""
        assert self.engine is not None
        for lane, (loss, accuracy) in zip(lanes, self.engine.evaluate(lanes, "validation"), strict=True):
            behind = lane.evaluations[-1].iteration if lane.evaluations else lane.start
            batches = lane.iteration - behind
            train_loss, correct = lane.sums.tolist()
            seen = Evaluation(
                lane.iteration, train_loss / batches, correct / (batches * lane.recipe.batch), loss, accuracy
            )
            lane.evaluations.append(seen)
            lane.sums.zero_()
        looked_at = [lane for lane in lanes if lane.finished or _at_minimum(lane)]
        for lane, (loss, accuracy) in zip(looked_at, self.engine.evaluate(looked_at, "test"), strict=True):
            lane.evaluations[-1] = replace(lane.evaluations[-1], test_loss=loss, test_accuracy=accuracy)
        for lane in lanes:
            if lane.watch:
                lane.watch(lane.evaluations[-1])

    def _dismiss(self, lanes: Sequence[Lane]) -> None:
        assert self.engine is not None
        for lane, (_, accuracy) in zip(lanes, self.engine.evaluate(lanes, "train"), strict=True):
            lane.train_accuracy = accuracy
        for lane in lanes:
            self.engine.leave(lane)
            self.lanes.remove(lane)
            lane.model.eval()

    def _save(self) -> None:
        assert self.engine is not None
        for lane in self.lanes:
            if lane.checkpoint is not None:
                save_checkpoint(lane, self.engine.state(lane))
        self._saved = time.monotonic()

    def _halve(self, error: BaseException) -> None:
        """Out of memory: all lanes go back to their last checkpoints, and half of them wait for the others."""
        assert self.engine is not None
        lanes = [*self.lanes, *self._waiting]
        there = max(1, len(self.lanes))
        if there == 1:
            device = lanes[0].device
            raise Invalid(f"out of memory on {device} with one network alone ({str(error).splitlines()[0]})") from error
        self.engine = self.engine.emptied()
        self._size = there // 2
        self.lanes, self._waiting = [], deque(lanes)
        for lane in lanes:
            lane.restart()
        if lanes[0].device.type == "cuda":
            torch.cuda.empty_cache()


def train_together(
    lanes: Iterable[Lane], *, cores: int | None = None, size: int | None = None, checkpoint_every: float = 60.0
) -> list[History]:
    """Train all `lanes`, as many at once as is fastest; what each leaves behind, in their order.

    Lanes may differ in everything: those that one engine does not take together are trained one stack after the
    other. Each is trained exactly as it would be alone: the same batches, rates and, on a CPU, the same numbers to
    the last bit.

    Args:
        lanes: what to train; their models are trained in place.
        cores: how many cores to use; default all that this process may use.
        size: the most lanes to have in a stack; default what the engine finds best.
        checkpoint_every: seconds between the checkpoints of lanes that have a place for one.

    Raises:
        Invalid: if a lane does not fit into memory even alone, or its checkpoint is not its own.
    """
    every = list(lanes)
    left = every
    while left:
        stack, apart = Stack(cores=cores, size=size, checkpoint_every=checkpoint_every), []
        for lane in left:
            if stack.takes(lane):
                stack.add(lane)
            else:
                apart.append(lane)
        while stack.busy:
            stack.advance()
        left = apart
    return [lane.history for lane in every]


def _is_due(lane: Lane) -> bool:
    return lane.iteration % int(lane.recipe.evaluate_every) == 0 or lane.iteration == lane.last


def _at_minimum(lane: Lane) -> bool:
    return earliest_minimum(lane.evaluations) == len(lane.evaluations) - 1


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
