"""Lanes that are computed together: their rows in the bank, and the step that trains all of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from prunus.training.checkpoint import State
from prunus.training.engines.batched_batches import Ahead
from prunus.training.engines.batched_gradients import Gradients, logits_of
from prunus.training.engines.batched_models import Pattern
from prunus.training.engines.batched_optimizers import moments_of, update
from prunus.training.engines.batched_state import Bank
from prunus.training.engines.graphs import Fastest, Replayed
from prunus.training.lane import Lane


class Together:
    """Rows for lanes of one pattern, and what is done with all of them at once.

    A lane that leaves leaves its row free. The next one that joins takes it; else the rows are closed up before the
    others train on, and the step is made anew.

    Args:
        pattern: what the lanes have in common.
    """

    def __init__(self, pattern: Pattern) -> None:
        self._pattern = pattern
        self._device = pattern.data.train.images.device
        self.bank: Bank = pattern.bank(moments_of(pattern.recipe))
        self.rows: dict[Lane, int] = {}
        self._step: _Step | None = None

    @property
    def step(self) -> Fastest:
        """How all lanes are trained by one step."""
        assert self._step
        return self._step.fastest

    @property
    def free(self) -> list[int]:
        """The rows without a lane."""
        taken = set(self.rows.values())
        return [row for row in range(len(self.bank)) if row not in taken]

    def compose(self, joining: Mapping[Lane, State], ways: Callable[[int], Sequence[str]]) -> bool:
        """Give each of `joining` a row, and leave no row free; whether the step was made anew.

        Args:
            joining: with what a checkpoint kept of each.
            ways: the names of those of the pattern's ways that come into question for so many lanes.
        """
        masked = any(lane.masks for lane in (*self.rows, *joining))
        free = self.free
        anew = len(free) != len(joining) or self._step is None or (masked and self.bank.masks is None)
        if anew:
            # first of all: a captured graph keeps all memory that it works in
            self._step = None
            staying = sorted(self.rows, key=self.rows.__getitem__)
            count = len(staying) + len(joining)
            self.bank.resize([self.rows[lane] for lane in staying], count, masked)
            self.rows = {lane: row for row, lane in enumerate(staying)}
            free = list(range(len(staying), count))
            self._step = _Step(self._pattern, self.bank, ways(count))
        for (lane, state), row in zip(joining.items(), free, strict=True):
            self.bank.load(row, lane.model, lane.masks or {}, state)
            self.rows[lane] = row
        return anew

    def train(self, counts: Mapping[Lane, int]) -> None:
        """Every lane by its number of steps: all go on to the end, and what ended before is put back."""
        lanes = sorted(self.rows, key=self.rows.__getitem__)
        wanted = [counts.get(lane, 0) for lane in lanes]
        self.bank.sums.zero_()
        self._pattern.model.train()
        ended: dict[int, list[Tensor]] = {}
        done, last = 0, max(wanted)
        for end in sorted(set(wanted)):
            self._run([lane if count >= end else None for lane, count in zip(lanes, wanted, strict=True)], done, end)
            done = end
            if end < last:
                ended |= {row: self.bank.copy(row) for row, count in enumerate(wanted) if count == end}
        for row, tensors in ended.items():
            self.bank.put(row, tensors)
        for lane in counts:
            lane.sums += self.bank.sums[self.rows[lane]]

    @torch.no_grad()
    def evaluate(self, lanes: Sequence[Lane], split: str, size: int) -> list[tuple[float, float]]:
        """Mean loss and accuracy of each of `lanes`, `size` images at a time."""
        data = self._pattern.data
        part = getattr(data, split)
        weights, rest = self.bank.chosen([self.rows[lane] for lane in lanes])
        logits_of_lanes = logits_of(self._pattern.model.eval(), self._pattern.recipe.precision)
        sums = torch.zeros(len(lanes), 2, dtype=torch.float64, device=self._device)
        for images, labels in zip(part.images.split(size), part.labels.split(size), strict=True):
            logits = logits_of_lanes(weights, rest, data.normalise(images)).float()
            right = labels.expand(len(lanes), -1)
            sums[:, 0] -= F.log_softmax(logits, 2).gather(2, right[:, :, None]).sum((1, 2))
            sums[:, 1] += (logits.argmax(2) == right).sum(1)
        return [(loss, accuracy) for loss, accuracy in (sums / len(part)).tolist()]

    def _run(self, lanes: Sequence[Lane | None], done: int, end: int) -> None:
        assert self._step
        ahead, step = self._step.ahead, self._step.fastest
        while done < end:
            count = min(ahead.steps, end - done)
            ahead.lay_out(lanes, done, count)
            for _ in range(count):
                step()
            done += count


class _Step:
    """One step of all lanes, and the batches ahead that it takes."""

    def __init__(self, pattern: Pattern, bank: Bank, ways: Sequence[str]) -> None:
        device = pattern.data.train.images.device
        self._recipe, self._bank = pattern.recipe, bank
        self.ahead = Ahead(pattern.data, pattern.recipe, len(bank))
        gradients = {name: pattern.ways[name](pattern.model, bank, pattern.recipe.precision) for name in ways}
        self.fastest = Fastest({name: Replayed(self._with(g), device) for name, g in gradients.items()}, device)

    def _with(self, gradients: Gradients) -> Callable[[], None]:
        recipe, bank, ahead = self._recipe, self._bank, self.ahead
        moments = list(bank.moments.values())

        @torch.no_grad()
        def step() -> None:
            images, labels, now = ahead.now()
            loss, correct = gradients(images, labels)
            # zero weights with zero gradients stay zero, whatever decay and momentum
            if bank.masks is not None:
                bank.gradients.mul_(bank.masks)
            update(recipe, bank.weights, bank.gradients, moments, now)
            bank.sums[:, 0].add_(loss)
            bank.sums[:, 1].add_(correct)

        return step


@contextmanager
def threads(count: int) -> Iterator[None]:
    """With `count` threads for each of PyTorch's operations."""
    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)
