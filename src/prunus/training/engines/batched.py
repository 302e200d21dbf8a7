"""Networks that are alike, all lanes as one batched computation: one launch for all of them, on an accelerator.

Parameters, buffers, masks, moments and sums have a leading axis of lanes. Each lane has its own data order, learning
rate, length and number of steps taken, all of which lie on the device for some steps ahead, so that a step needs
nothing of the host and is replayed as a CUDA graph. Fully-connected networks are batched by hand; for others vmap
makes convolutions grouped ones, or lanes are computed one after the other, whichever is measured to be faster.
"""

import time
from collections.abc import Sequence
from typing import Literal

import torch

from prunus.core.errors import Invalid
from prunus.training.checkpoint import State
from prunus.training.engines.batched_models import Pattern
from prunus.training.engines.batched_together import Together, threads
from prunus.training.engines.graphs import synchronize
from prunus.training.engines.memory import allocated, at_most, forget_peak, free
from prunus.training.engines.sizing import Sizing
from prunus.training.lane import Lane

#: Evaluation takes so many images at a time that activations fit into this part of the free memory, ...
_EVALUATION_PART = 4
#: ... and into so many bytes: enough to fill an accelerator; on a CPU what its caches hold.
_EVALUATION_BYTES, _EVALUATION_BYTES_ON_CPU = 2**30, 2**25
#: Steps that say how fast a stack is.
_TIMED = 10

_IN_WORDS = {
    "batched": "batched by hand",
    "grouped": "batched by vmap",
    "apart": "one lane after the other, with one optimizer",
    None: "batched by vmap, then one lane after the other, to see which is faster",
}


class BatchedEngine:
    """See the module.

    On a CPU it is used only where it is asked for: `Stack(engine=BatchedEngine(cores))`. There launches cost little,
    and what lies side by side leaves the caches. Time of a lane's step over that in `SingleEngine`, at batch 60 with
    Adam, on one core of an AMD EPYC with AVX2, in stacks of 1, 4 and 16:

    | network | images | grouped | one lane after the other | by hand |
    | --- | --- | --- | --- | --- |
    | Conv-2 | 3 × 32 × 32 | 1.0, 1.9, 2.0 | 1.0, 1.1, 1.1 | |
    | Conv-4 | 3 × 32 × 32 | 1.0, 1.2, 1.5 | 1.0, 1.0, 1.0 | |
    | LeNet-5 | 1 × 28 × 28 | 1.2, 1.5, 1.3 | 1.1, 1.0, 1.1 | |
    | Conv-2, a tenth of the width | 1 × 8 × 8 | 2.0, 1.1, 0.9 | 1.1, 0.9, 0.9 | |
    | LeNet-300-100 | 1 × 28 × 28 | | | 1.3, 1.4, 1.3 |
    | LeNet-300-100, a tenth of the width | 1 × 8 × 8 | | | 1.0, 0.3, 0.14 |

    So it pays only where Python takes most of the time, and there the C++ kernels take 0.06.

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
        self._cores = cores
        self._convolutions: Literal["fastest", "grouped", "apart"] = convolutions
        self._pattern: Pattern | None = None
        self._together: Together | None = None
        self._joining: dict[Lane, State] = {}
        self._sizing = Sizing()
        self._fastest: dict[int, str] = {}  # by the number of bits of the number of lanes
        self._before = 0  # bytes that were taken on the device without any lane

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
            self._before = allocated(lane.device)
            return self._pattern is not None
        return self._pattern.fits(lane)

    def join(self, lane: Lane, state: State) -> None:
        """Note the lane; its weights are copied when next they are needed.

        Raises:
            Invalid: if it cannot be computed with those that are here.
        """
        if not self.takes(lane):
            raise Invalid(
                "engine is BatchedEngine, which does not take this lane; allowed: lanes of one architecture, data set, "
                "optimizer, batch and precision, without method, whose network vmap can compute (no hooks, no dropout)"
            )
        self._joining[lane] = state

    def advance(self, lanes: Sequence[Lane], steps: Sequence[int]) -> None:
        """All lanes together; those with fewer steps than others are put back to where they ended."""
        together = self._composed()
        warm, began = together.step.warm, time.perf_counter()
        with threads(self._cores):
            together.train(dict(zip(lanes, steps, strict=True)))
        synchronize(lanes[0].device)
        self._note_fastest(together)
        if warm and len(lanes) == len(together.rows) and max(steps) >= _TIMED:
            self._report(together, (time.perf_counter() - began) / max(steps))

    def evaluate(self, lanes: Sequence[Lane], split: str) -> list[tuple[float, float]]:
        """All lanes together, as many images at a time as fit."""
        if not lanes:
            return []
        together, size = self._with_rows(), self._images_at_a_time(lanes)
        while True:
            try:
                with threads(self._cores):
                    return together.evaluate(lanes, split, size)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            size = max(1, size // 2)

    def state(self, lane: Lane) -> State:
        """The optimizer's moments; the weights go into the model."""
        together = self._with_rows()
        together.bank.read(together.rows[lane], lane.model)
        return together.bank.state(together.rows[lane])

    def leave(self, lane: Lane) -> None:
        """Put the weights back; with the last lane all memory is let go."""
        together = self._with_rows()
        together.bank.read(together.rows.pop(lane), lane.model)
        if not together.rows:
            self._together = None

    def emptied(self) -> "BatchedEngine":
        """The same for other lanes; what this one holds on the device is let go."""
        self._together, self._joining = None, {}
        empty = BatchedEngine(self._cores, self._convolutions)
        empty._pattern, empty._before = self._pattern, self._before
        return empty

    def _composed(self) -> Together:
        """With a row for each lane, and none without."""
        assert self._pattern
        together = self._together = self._together or Together(self._pattern)
        if (self._joining or together.free) and together.compose(self._joining, self._ways):
            forget_peak(self._pattern.data.train.images.device)
        self._joining = {}
        return together

    def _with_rows(self) -> Together:
        """With a row for each lane."""
        if self._joining or self._together is None:
            return self._composed()
        return self._together

    def _ways(self, count: int) -> Sequence[str]:
        assert self._pattern
        there = list(self._pattern.ways)
        wanted = self._fastest.get(count.bit_length(), self._convolutions)
        return [wanted] if wanted in there else there

    def _note_fastest(self, together: Together) -> None:
        fastest = together.step.chosen
        if fastest is not None:
            self._fastest[len(together.rows).bit_length()] = fastest
        for lane in together.rows:
            lane.products = {"all layers": _IN_WORDS[fastest]}

    def _report(self, together: Together, seconds: float) -> None:
        """Tell how a step of all lanes did, for the choice of their number."""
        assert self._pattern
        device, lanes = self._pattern.data.train.images.device, len(together.rows)
        memory = at_most(device)
        if memory is None:  # not counted, so computed; activations have gradients
            memory = together.bank.bytes + 2 * lanes * self._pattern.recipe.batch * self._pattern.activations
        self._sizing.report(lanes, seconds, memory - self._before, free(device))

    def _images_at_a_time(self, lanes: Sequence[Lane]) -> int:
        assert self._pattern
        device = lanes[0].device
        most = _EVALUATION_BYTES_ON_CPU if device.type == "cpu" else _EVALUATION_BYTES
        most = min(most, free(device) // _EVALUATION_PART)
        return max(1, most // max(1, 2 * len(lanes) * self._pattern.activations))
