"""Any network, one lane at a time, each by several processes together: DDP through `accelerate`.

Every process holds the whole network and its optimizer, knows the whole order of the data, which is a function of the
seed, and takes rows rank, rank + world, rank + 2 world, … of each batch, augmented as in one process. A process
with fewer rows than another counts for less, so the gradient is the mean over the total batch whether or not the
processes share it evenly. The gradients are averaged (`DistributedDataParallel`), then masked and stepped with in each
process; BatchNorm takes its statistics from the total batch. So the result is that of one process, but for the order
of sums, and the processes stay the same to the last bit, masks included, with nothing sent but gradients. That they
do is checked at each evaluation.

What differs from one process: a network that draws random numbers while it trains (dropout) draws from a stream for
each process and iteration.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core.errors import Invalid
from prunus.core.seeds import derive
from prunus.training.checkpoint import State
from prunus.training.engines.draws import global_generator
from prunus.training.engines.single import Seat
from prunus.training.engines.sparse_layers import SparseLinear
from prunus.training.engines.total_batch_norm import over_the_total_batch
from prunus.training.evaluate import batch_sums, number_of_batches
from prunus.training.lane import Lane
from prunus.training.precision import computing_in
from prunus.training.processes import Processes


class DistributedEngine:
    """See the module.

    All processes must do the same with the same lanes, in the same order: `SharedStack` sees to it.

    Args:
        processes: that compute together.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._seats: dict[Lane, _SharedSeat] = {}

    @property
    def room(self) -> int:
        """One lane."""
        return 1

    def takes(self, lane: Lane) -> bool:
        """Any lane where the processes compute, if no other is here."""
        return not self._seats and lane.device.type == self._processes.device.type

    def join(self, lane: Lane, state: State) -> None:
        """Give the lane its optimizer, and its network to all processes.

        Raises:
            Invalid: if the batch has fewer rows than there are processes, the processes are not at the same
                iteration, or a layer of the network cannot be trained by several.
        """
        if lane.recipe.batch < self._processes.world:
            raise Invalid(
                f"batch is {lane.recipe.batch}; allowed with {self._processes.world} processes: "
                f"at least {self._processes.world}"
            )
        stands = torch.tensor([lane.iteration], device=lane.device)
        if not self._processes.same({"iteration": stands}):
            raise Invalid(
                f"{lane.checkpoint}: the processes do not read the same checkpoint here; allowed: one folder for all"
            )
        self._seats[lane] = _SharedSeat(lane, state, self._processes)

    def advance(self, lanes: Sequence[Lane], steps: Sequence[int]) -> None:
        """Train each."""
        for lane, count in zip(lanes, steps, strict=True):
            self._seats[lane].advance(count)

    def evaluate(self, lanes: Sequence[Lane], split: str) -> list[tuple[float, float]]:
        """Each process takes every so many-th batch of the split; for equal weights the very numbers of one process."""
        return [self._evaluate(lane, split) for lane in lanes]

    def state(self, lane: Lane) -> State:
        """Moments, and what a method keeps: each process holds them all."""
        return self._seats[lane].state()

    def leave(self, lane: Lane) -> None:
        """The weights are in the model already; its layers are made as they were, and its method ends."""
        seat = self._seats.pop(lane)
        seat.undo.close()
        seat.finish()
        self._processes.forget_models()

    def emptied(self) -> "DistributedEngine":
        """The same for other lanes."""
        for lane in list(self._seats):
            self.leave(lane)
        return DistributedEngine(self._processes)

    def _evaluate(self, lane: Lane, split: str) -> tuple[float, float]:
        processes, part = self._processes, getattr(lane.data, split)
        if not processes.same(lane.model.state_dict()):
            raise Invalid(
                f"the processes hold different weights at iteration {lane.iteration}; allowed: machines of one kind, "
                "and methods that change the network in the same way in each process"
            )
        count = number_of_batches(part)
        sums = torch.zeros(count, 2, dtype=torch.float64, device=lane.device)
        for batch in range(processes.rank, count, processes.world):
            sums[batch] = batch_sums(lane.model, lane.data, part, batch, lane.recipe.precision)
        loss = correct = 0.0
        for batch_loss, batch_correct in processes.sum(sums).tolist():  # in one process's order
            loss, correct = loss + batch_loss, correct + batch_correct
        return loss / len(part), correct / len(part)


class _SharedSeat(Seat):
    """A lane in training."""

    def __init__(self, lane: Lane, state: State, processes: Processes) -> None:
        super().__init__(lane, state)
        self.processes = processes
        for parameter in lane.model.parameters():
            parameter.grad = None
        self.undo = over_the_total_batch(lane.model, processes)
        self.model: nn.Module = processes.parallel(lane.model)
        self.began = False
        lane.products = {"all layers": f"PyTorch, by {processes.world} processes"}

    def network_of(self, lane: Lane) -> tuple[nn.Module, dict[str, SparseLinear]]:
        """The lane's own model: gradients of other shapes could not be averaged."""
        return lane.model, {}

    def advance(self, steps: int) -> None:
        """Train the lane by `steps` iterations."""
        lane = self.lane
        lane.model.train()
        before = lane.sums.clone()
        lane.sums.zero_()
        with global_generator(lane.device, {}) if self.draws else nullcontext():
            for iteration in range(lane.iteration, lane.iteration + steps):
                if self.draws:
                    torch.manual_seed(derive(lane.seed, "dropout", self.processes.rank, iteration))
                self.step(iteration)
        lane.sums.copy_(self.processes.sum(lane.sums) + before)

    def losses(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Set the gradients of the mean loss over the total batch; this process's share of it, and its hits."""
        lane, world = self.lane, self.processes.world
        split, rows = lane.batches.examples(iteration, 1)
        own = rows[0, self.processes.rank :: world]
        images, labels = (t.index_select(0, own) for t in (split.images, split.labels))
        for parameter in lane.model.parameters():
            parameter.grad = None
        with computing_in(lane.recipe.precision, lane.device):
            logits = self.model(lane.data.normalise(images))
            share = self._summed(logits, labels) / lane.recipe.batch
        # averaged over the processes, the gradients of world × share are those of the sum of shares
        (world * share).backward()
        if not self.began:
            self._check_gradients()
        return share.detach(), (logits.detach().argmax(1) == labels).sum()

    def _summed(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum of the losses of this process's rows: a method's own loss says their mean."""
        if self.loss is None:
            return F.cross_entropy(logits, labels, reduction="sum")
        return self.loss(logits, labels) * len(labels)

    def state(self) -> State:
        """What a checkpoint keeps besides the weights; the streams of dropout need no keeping."""
        return {name: tensor for name, tensor in super().state().items() if not name.startswith("generator/")}

    def _check_gradients(self) -> None:
        idle = [n for n, p in self.lane.model.named_parameters() if p.requires_grad and p.grad is None]
        if idle:
            raise Invalid(f"{idle[0]} has no part in the loss; several processes can only train what has")
        self.began = True
