"""Any network, one lane at a time: autograd and torch's own optimizers.

On a CPU as many lanes as there are cores for are computed side by side, each by a thread of its own. A network that
draws random numbers while it trains (dropout) takes turns with the others: PyTorch has one generator for all threads,
which is set to the lane's own stream for its turn.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn

from prunus.training.checkpoint import State
from prunus.training.engines.draws import draws, generator_state, global_generator, seeded
from prunus.training.engines.sparse_layers import SparseLinear, with_sparse_layers, write_back
from prunus.training.evaluate import evaluate
from prunus.training.gradients import Loss, gradients_of
from prunus.training.lane import Lane
from prunus.training.recipe import learning_rate, make_optimizer

Result = TypeVar("Result")


class SingleEngine:
    """See the module.

    Args:
        cores: how many cores to use; each lane uses `torch.get_num_threads()` of them.
    """

    def __init__(self, cores: int) -> None:
        self._cores, self._threads = cores, torch.get_num_threads()
        self._seats: dict[Lane, Seat] = {}
        self._pool: ThreadPoolExecutor | None = None

    @property
    def room(self) -> int:
        """One lane for each share of the cores; one on an accelerator."""
        on_cpu = all(lane.device.type == "cpu" for lane in self._seats)
        return max(1, self._cores // self._threads) if on_cpu else 1

    def takes(self, lane: Lane) -> bool:
        """Any lane on the same device."""
        return all(lane.device == other.device for other in self._seats)

    def join(self, lane: Lane, state: State) -> None:
        """Give the lane its optimizer."""
        self._seats[lane] = Seat(lane, state)

    def advance(self, lanes: Sequence[Lane], steps: Sequence[int]) -> None:
        """Side by side where they can be."""
        self._each([lambda s=self._seats[lane], n=n: s.advance(n) for lane, n in zip(lanes, steps, strict=True)], lanes)

    def evaluate(self, lanes: Sequence[Lane], split: str) -> list[tuple[float, float]]:
        """Side by side where they can be."""
        return self._each([lambda s=self._seats[lane]: s.evaluate(split) for lane in lanes], lanes)

    def state(self, lane: Lane) -> State:
        """Moments, generators, and what a method keeps."""
        return self._seats[lane].state()

    def leave(self, lane: Lane) -> None:
        """Put the weights into the model, and let the lane's method end."""
        seat = self._seats.pop(lane)
        seat.write_back()
        seat.finish()

    def emptied(self) -> "SingleEngine":
        """The same for other lanes; the models are trained in place, so they get back what they joined with."""
        for seat in self._seats.values():
            seat.finish()
            seat.lane.model.load_state_dict(seat.joined_with)
        return SingleEngine(self._cores)

    def _each(self, tasks: Sequence[Callable[[], Result]], lanes: Sequence[Lane]) -> list[Result]:
        together = len(tasks) > 1 and self.room > 1 and not any(self._seats[lane].draws for lane in lanes)
        if not together:
            return [task() for task in tasks]
        if self._pool is None:
            # the number of threads is a setting of each thread's own
            self._pool = ThreadPoolExecutor(self.room, initializer=torch.set_num_threads, initargs=(self._threads,))
        return list(self._pool.map(lambda task: task(), tasks))


class Seat:
    """A lane in training."""

    def __init__(self, lane: Lane, state: State) -> None:
        self.lane = lane
        self.joined_with = {name: tensor.clone() for name, tensor in lane.model.state_dict().items()}
        self.draws = draws(lane)
        self.network, self.sparse = self.network_of(lane)
        parameters = dict(self.network.named_parameters())
        # masks as floats: a product with them takes a seventh of the time of one with bools
        masks = lane.masks or {}
        self.masked = [(parameters[n], m.to(parameters[n])) for n, m in masks.items() if n in parameters]
        with torch.no_grad():
            for parameter, mask in self.masked:
                parameter.mul_(mask)
        self.names = [name for name, p in parameters.items() if p.requires_grad]
        self.optimizer = make_optimizer(lane.recipe, [parameters[name] for name in self.names])
        self.method = lane.method(lane.model, self.optimizer) if lane.method else None
        self.loss: Loss | None = getattr(self.method, "loss", None)
        self.gradients = gradients_of(self.network, lane.recipe.precision, self.loss)
        lane.products = {
            **dict.fromkeys(self.sparse, "sparse"),
            "all layers" if not self.sparse else "others": "PyTorch",
        }
        self._load(state)

    def network_of(self, lane: Lane) -> tuple[nn.Module, dict[str, SparseLinear]]:
        """What is trained for the lane: its model, or a copy with sparse layers where they are faster."""
        plain = lane.device.type == "cpu" and lane.recipe.precision == "float32" and lane.method is None
        return with_sparse_layers(lane) if plain and lane.masks else (lane.model, {})

    def write_back(self) -> None:
        """Put the weights into the lane's model."""
        if self.sparse:
            write_back(self.network, self.sparse, self.lane.model)

    def finish(self) -> None:
        """End the lane's method, if it has something to end."""
        finish = getattr(self.method, "finish", None)
        if finish:
            finish()

    def advance(self, steps: int) -> None:
        """Train the lane by `steps` iterations."""
        self.network.train()
        if not self.draws:
            for iteration in range(self.lane.iteration, self.lane.iteration + steps):
                self.step(iteration)
            return
        with global_generator(self.lane.device, self.generator):
            for iteration in range(self.lane.iteration, self.lane.iteration + steps):
                self.step(iteration)
            self.generator = generator_state(self.lane.device)

    def step(self, iteration: int) -> None:
        """One iteration: gradients, masks, optimizer, method."""
        lane = self.lane
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(lane.recipe, iteration)
        loss, correct = self.losses(iteration)
        # zero weights with zero gradients stay zero under SGD, Adam and AdamW, whatever their decay and momentum
        for parameter, mask in self.masked:
            assert parameter.grad is not None
            parameter.grad.mul_(mask)
        self.optimizer.step()
        if self.method:
            self.method.step()
        lane.sums[0] += loss
        lane.sums[1] += correct

    def evaluate(self, split: str) -> tuple[float, float]:
        """Mean loss and accuracy on a split of the lane's data."""
        data, precision = self.lane.data, self.lane.recipe.precision
        if not self.draws:
            return evaluate(self.network, data, getattr(data, split), precision)
        # a network that draws in evaluation too (a sampled mask) draws the same for the same weights
        with global_generator(self.lane.device, seeded(self.lane, "evaluation")):
            return evaluate(self.network, data, getattr(data, split), precision)

    def losses(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Set the gradients of an iteration; its mean loss and number of correct predictions."""
        return self.gradients(*self.lane.batches[iteration])

    def state(self) -> State:
        """What a checkpoint keeps besides the weights, which are put into the lane's model."""
        self.write_back()
        state: dict[str, Tensor] = {}
        for index, entries in self.optimizer.state_dict()["state"].items():
            if index >= len(self.names):  # of parameters that a method has added, which it keeps itself
                continue
            moments = {n: t for n, t in entries.items() if isinstance(t, Tensor) and n != "step"}
            layer = self.sparse.get(self.names[index].removesuffix(".values"))
            name = self.names[index].replace(".values", ".weight") if layer else self.names[index]
            state |= {f"{n}/{name}": layer.pattern.dense(t) if layer else t for n, t in moments.items()}
        if self.draws:
            state |= {f"generator/{name}": tensor for name, tensor in self.generator.items()}
        if self.method:
            kept = self.method.state_dict()
            state |= {f"method/{name}": value for name, value in kept.items() if isinstance(value, Tensor)}
            rest = json.dumps({name: value for name, value in kept.items() if not isinstance(value, Tensor)})
            state["method"] = torch.frombuffer(bytearray(rest.encode()), dtype=torch.uint8)
        return state

    def _load(self, state: State) -> None:
        self.generator = _part(state, "generator")
        if self.draws and not self.generator:
            self.generator = seeded(self.lane)
        steps = self.lane.iteration - self.lane.start
        if steps:
            loaded: dict[int, dict[str, Tensor]] = {i: {} for i in range(len(self.names))}
            for entry in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
                for name, tensor in _part(state, entry).items():
                    layer = self.sparse.get(name.removesuffix(".weight"))
                    own = name.replace(".weight", ".values") if layer else name
                    loaded[self.names.index(own)][entry] = layer.pattern.values(tensor) if layer else tensor
            if self.lane.recipe.optimizer != "sgd":
                for entries in loaded.values():
                    entries["step"] = torch.tensor(float(steps))
            there = {i: entries for i, entries in loaded.items() if entries}
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": there})
        if self.method and "method" in state:
            rest = json.loads(bytes(state["method"].tolist()).decode())
            self.method.load_state_dict({**_part(state, "method"), **rest})
            # a sparse training zeroes, when it is made, what its first masks leave out
            self.lane.model.load_state_dict(self.joined_with)


def _part(state: State, prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(f"{prefix}/"): t for n, t in state.items() if n.startswith(f"{prefix}/")}
