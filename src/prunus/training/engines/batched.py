"""Networks that are alike, all lanes as one batched computation: one launch for all of them, on an accelerator.

Parameters, buffers, masks, moments and sums have a leading axis of lanes. Each lane has its own data order, learning
rate, length and number of steps taken, all of which lie on the device for some steps ahead, so that a step needs
nothing of the host and is replayed as a CUDA graph. Fully-connected networks are batched by hand; for others vmap
makes convolutions grouped ones, or lanes are computed one after the other, whichever is measured to be faster.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch.nn import functional as F

from prunus.core.errors import Invalid
from prunus.training.checkpoint import State
from prunus.training.engines.batched_batches import Ahead
from prunus.training.engines.batched_gradients import Gradients, logits_of
from prunus.training.engines.batched_models import Pattern
from prunus.training.engines.batched_optimizers import moments_of, update
from prunus.training.engines.batched_state import Bank
from prunus.training.engines.graphs import Fastest, Replayed, synchronize
from prunus.training.engines.memory import allocated, at_most, forget_peak, free
from prunus.training.engines.sizing import Sizing
from prunus.training.lane import Lane

#: Evaluation takes so many images at a time that activations fit into this part of the free memory, ...
_EVALUATION_PART = 4
#: ... and into so many bytes: enough to fill an accelerator; on a CPU about what its caches hold.
_EVALUATION_BYTES = {"cpu": 32 * 2**20}
_EVALUATION_BYTES_ELSEWHERE = 2**30
#: Steps that say how fast a stack is.
_TIMED = 10

_IN_WORDS = {
    "batched": "batched by hand",
    "grouped": "batched by vmap",
    "apart": "one lane after the other, optimizer batched",
}


class BatchedEngine:
    """See the module.

    On a CPU it is used only where it is asked for: `Stack(engine=BatchedEngine(cores))`.

    The first lane that joins, or that `takes` is asked about, says what all others have to be like: the same data set,
    architecture, optimizer, batch and precision. A network that draws random numbers while it trains, one with hooks,
    and a lane with a method are not taken.

    Nothing of this has been run on an accelerator, for want of one; on a CPU all of it has but the CUDA graphs.

    Args:
        cores: how many cores to use for what is computed on a CPU.
        convolutions: `"grouped"` by vmap, `"apart"` one lane after the other, or `"fastest"`: the first steps of a
            stack are computed in both ways and timed. Fully-connected networks are batched by hand.
    """

    def __init__(self, cores: int, convolutions: Literal["fastest", "grouped", "apart"] = "fastest") -> None:
        self._cores, self._convolutions = cores, convolutions
        self._pattern: Pattern | None = None
        self._sizing = Sizing()
        self._chosen: dict[int, str] = {}  # the fastest way, by the number of bits of the number of lanes
        self._rows: dict[Lane, int] = {}
        self._joining: dict[Lane, State] = {}
        self._clear()

    def _clear(self) -> None:
        self._bank: Bank | None = None
        self._ahead: Ahead | None = None
        self._step: Fastest | None = None

    @staticmethod
    def can(lane: Lane) -> bool:
        """Whether a lane is best computed here: on an accelerator, with a network that can be batched."""
        return lane.device.type != "cpu" and Pattern.of(lane) is not None

    @property
    def room(self) -> int:
        """As many as make each of them cheaper, and as memory allows: found while they train."""
        return self._sizing.size

    def takes(self, lane: Lane) -> bool:
        """Whether the lane is like those that are here."""
        if self._pattern is None:
            self._pattern = Pattern.of(lane)
            self._memory = allocated(lane.device)
            return self._pattern is not None
        return self._pattern.fits(lane)

    def join(self, lane: Lane, state: State) -> None:
        """Note the lane; its weights are copied when next they are needed.

        Raises:
            Invalid: if it cannot be computed with those that are here.
        """
        if not self.takes(lane):
            raise Invalid(
                "the batched engine does not take this lane; allowed: networks without hooks, methods and random "
                "numbers that vmap can compute, all of one architecture, data set, optimizer, batch and precision"
            )
        self._joining[lane] = state

    def advance(self, lanes: Sequence[Lane], steps: Sequence[int]) -> None:
        """All lanes together; those with fewer steps are put back to where they ended."""
        self._compose()
        assert self._pattern and self._bank and self._step
        warm, began = self._step.warm, time.perf_counter()
        counts = dict(zip(lanes, steps, strict=True))
        wanted = [counts.get(lane, 0) for lane in self._by_row()]
        self._bank.sums.zero_()
        self._pattern.model.train()
        with self._threads():
            self._train(wanted)
        for lane in lanes:
            lane.sums += self._bank.sums[self._rows[lane]]
        synchronize(self._pattern.data.train.images.device)
        self._note_choice()
        if warm and len(lanes) == len(self._bank) and max(wanted) >= _TIMED:
            self._report((time.perf_counter() - began) / max(wanted))

    @torch.no_grad()
    def evaluate(self, lanes: Sequence[Lane], split: str) -> list[tuple[float, float]]:
        """All lanes together, as many images at a time as fit."""
        if not lanes:
            return []
        self._compose_joining()
        assert self._pattern and self._bank
        data = self._pattern.data
        part = getattr(data, split)
        weights, rest = self._bank.chosen([self._rows[lane] for lane in lanes])
        logits_of_lanes = logits_of(self._pattern.model.eval(), self._pattern.recipe.precision)
        sums = torch.zeros(len(lanes), 2, dtype=torch.float64, device=part.images.device)
        size = self._images_at_a_time(len(lanes))
        with self._threads():
            for images, labels in zip(part.images.split(size), part.labels.split(size), strict=True):
                logits = logits_of_lanes(weights, rest, data.normalise(images)).float()
                right = labels.expand(len(lanes), -1)
                sums[:, 0] -= F.log_softmax(logits, 2).gather(2, right[:, :, None]).sum((1, 2))
                sums[:, 1] += (logits.argmax(2) == right).sum(1)
        return [(loss, accuracy) for loss, accuracy in (sums / len(part)).tolist()]

    def state(self, lane: Lane) -> State:
        """The optimizer's moments; the weights go into the model."""
        self._compose_joining()
        assert self._bank
        self._bank.read(self._rows[lane], lane.model)
        return self._bank.state(self._rows[lane])

    def leave(self, lane: Lane) -> None:
        """Put the weights back. The row stays for the next lane that joins, until the others train on without one."""
        self._compose_joining()
        assert self._bank
        self._bank.read(self._rows.pop(lane), lane.model)
        if not self._rows:
            self._clear()

    def emptied(self) -> "BatchedEngine":
        """The same for other lanes; what this one holds on the device is let go."""
        self._clear()
        self._rows, self._joining = {}, {}
        return BatchedEngine(self._cores, self._convolutions)

    def _compose(self) -> None:
        """One row for each lane: those that left are closed up, those that wait are copied in."""
        rows = set(self._rows.values())
        free_rows = [row for row in range(len(self._bank or ())) if row not in rows]
        if not self._joining and not free_rows:
            return
        masked = any(lane.masks for lane in (*self._rows, *self._joining))
        fitting = self._bank is not None and (self._bank.masks is not None or not masked)
        if not (fitting and len(free_rows) == len(self._joining)):
            free_rows = self._rebuild(masked)
        assert self._bank
        for (lane, state), row in zip(self._joining.items(), free_rows, strict=True):
            self._bank.load(row, lane.model, lane.masks or {}, state)
            self._rows[lane] = row
        self._joining = {}

    def _compose_joining(self) -> None:
        if self._joining:
            self._compose()

    def _rebuild(self, masked: bool) -> list[int]:
        """Tensors of the right size, and a new step; the rows that are free."""
        assert self._pattern
        # first of all: a captured graph keeps all memory that it works in
        self._step = self._ahead = None
        staying = sorted(self._rows, key=self._rows.__getitem__)
        count = len(staying) + len(self._joining)
        self._bank = bank = self._bank or self._pattern.bank(moments_of(self._pattern.recipe))
        bank.resize([self._rows[lane] for lane in staying], count, masked)
        self._rows = {lane: row for row, lane in enumerate(staying)}
        self._ahead = Ahead(self._pattern.data, self._pattern.recipe, count)
        device = self._pattern.data.train.images.device
        forget_peak(device)
        ways = {
            name: Replayed(self._work(way(self._pattern.model, bank, self._pattern.recipe.precision)), device)
            for name, way in self._pattern.ways.items()
            if name in self._candidates(count)
        }
        self._step = Fastest(ways, device)
        return list(range(len(staying), count))

    def _candidates(self, count: int) -> Sequence[str]:
        assert self._pattern
        there = list(self._pattern.ways)
        wanted = self._chosen.get(count.bit_length(), self._convolutions)
        return [wanted] if wanted in there else there

    def _work(self, gradients: Gradients) -> Callable[[], None]:
        """One step of all lanes, as a function of no arguments."""
        assert self._pattern and self._bank and self._ahead
        recipe, bank, ahead = self._pattern.recipe, self._bank, self._ahead
        moments = list(bank.moments.values())

        @torch.no_grad()
        def work() -> None:
            images, labels, now = ahead.now()
            loss, correct = gradients(images, labels)
            # zero weights with zero gradients stay zero, whatever decay and momentum
            if bank.masks is not None:
                bank.gradients.mul_(bank.masks)
            update(recipe, bank.weights, bank.gradients, moments, now)
            bank.sums[:, 0].add_(loss)
            bank.sums[:, 1].add_(correct)

        return work

    def _train(self, wanted: Sequence[int]) -> None:
        """Every row by its number of steps: all go on to the end, and what ended before is put back."""
        assert self._bank
        ended = {}
        done, last = 0, max(wanted)
        for end in sorted(set(wanted)):
            self._run(done, end, wanted)
            done = end
            if end < last:
                ended |= {row: self._bank.copy(row) for row, count in enumerate(wanted) if count == end}
        for row, tensors in ended.items():
            self._bank.put(row, tensors)

    def _run(self, done: int, end: int, wanted: Sequence[int]) -> None:
        assert self._ahead and self._step
        training = [lane if count >= end else None for lane, count in zip(self._by_row(), wanted, strict=True)]
        while done < end:
            count = min(self._ahead.steps, end - done)
            self._ahead.lay_out(training, done, count)
            for _ in range(count):
                self._step()
            done += count

    def _by_row(self) -> list[Lane]:
        return sorted(self._rows, key=self._rows.__getitem__)

    def _report(self, seconds: float) -> None:
        """Tell how a step of all lanes did, for the choice of their number."""
        assert self._pattern and self._bank
        device = self._pattern.data.train.images.device
        # activations and their gradients
        examples = len(self._bank) * self._pattern.recipe.batch
        computed = self._bank.bytes + 2 * examples * self._pattern.activations
        memory = at_most(device)
        self._sizing.report(
            len(self._bank), seconds, computed if memory is None else memory - self._memory, free(device)
        )

    def _note_choice(self) -> None:
        assert self._bank and self._step
        if (chosen := self._step.chosen) is not None:
            self._chosen[len(self._bank).bit_length()] = chosen
            for lane in self._rows:
                lane.products = {"all layers": _IN_WORDS[chosen]}

    def _images_at_a_time(self, lanes: int) -> int:
        assert self._pattern
        device = self._pattern.data.train.images.device
        most = min(free(device) // _EVALUATION_PART, _EVALUATION_BYTES.get(device.type, _EVALUATION_BYTES_ELSEWHERE))
        return max(1, most // max(1, 2 * lanes * self._pattern.activations))

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """With as many threads as the engine may use."""
        before = torch.get_num_threads()
        if before == self._cores:
            yield
            return
        torch.set_num_threads(self._cores)
        try:
            yield
        finally:
            torch.set_num_threads(before)
