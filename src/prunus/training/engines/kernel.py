"""Fully-connected networks on a CPU: whole steps in C++, each layer dense or sparse, each lane on a core of its own.

Dense and sparse products give the same numbers to the last bit, and a lane's numbers depend on no other lane and not on
the number of cores. So the choice between dense and sparse, made by timing both, is a matter of speed alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from math import log2, prod
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid
from prunus.data import DataSet
from prunus.kernels import native
from prunus.training.checkpoint import State
from prunus.training.gradients import fully_connected
from prunus.training.lane import Lane
from prunus.training.recipe import learning_rate

#: The moments of each optimizer, in the kernels' order.
_MOMENTS = {"adam": ("exp_avg", "exp_avg_sq"), "adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
_RULES = {"adam": 0, "adamw": 1, "sgd": 2}


class KernelEngine:
    """See the module.

    Args:
        cores: how many cores to use.
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._seats: dict[Lane, _Seat] = {}
        self._constants: dict[int, tuple[DataSet, Tensor, Tensor]] = {}

    @staticmethod
    def can(lane: Lane) -> bool:
        """Whether the kernels take this network: linear layers with ReLU between them, in float32, on a CPU."""
        plain = lane.device.type == "cpu" and lane.method is None and lane.recipe.precision == "float32"
        layers = fully_connected(lane.model) if plain else None
        inputs = prod(lane.data.input_shape)
        return (
            bool(layers)
            and layers[0].in_features == inputs
            and all(p.dtype == torch.float32 for p in lane.model.parameters())
            and _there()
        )

    @property
    def room(self) -> int:
        """Some lanes for each core: lanes that are dense take longer than sparse ones, and none should wait long."""
        return 4 * self._cores

    def takes(self, lane: Lane) -> bool:
        """Any lane that the kernels take."""
        return self.can(lane)

    def join(self, lane: Lane, state: State) -> None:
        """Copy the weights."""
        self._seats[lane] = _Seat(lane, state)

    def advance(self, lanes: Sequence[Lane], steps: Sequence[int]) -> None:
        """All lanes of the same data and optimizer in one call."""
        alike: dict[tuple, list[tuple[Lane, int]]] = defaultdict(list)
        for lane, count in zip(lanes, steps, strict=True):
            recipe = lane.recipe
            key = (id(lane.data), recipe.optimizer, recipe.weight_decay, recipe.momentum, recipe.nesterov)
            alike[key].append((lane, count))
        for (_, optimizer, decay, momentum, nesterov), group in alike.items():
            examples = [lane.batches.examples(lane.iteration, count) for lane, count in group]
            _native().train(
                [self._seats[lane].chain for lane, _ in group],
                [split.images.flatten(1) for split, _ in examples],
                [split.labels for split, _ in examples],
                *self._scale_and_shift(group[0][0].data),
                [rows.contiguous() for _, rows in examples],
                [_rates(lane, count) for lane, count in group],
                [lane.iteration - lane.start for lane, _ in group],
                [lane.sums for lane, _ in group],
                _RULES[optimizer],
                decay,
                momentum,
                nesterov,
                self._cores,
            )

    def evaluate(self, lanes: Sequence[Lane], split: str) -> list[tuple[float, float]]:
        """All lanes of the same data in one call."""
        found: dict[Lane, tuple[float, float]] = {}
        for data in {id(lane.data): lane.data for lane in lanes}.values():
            group = [lane for lane in lanes if lane.data is data]
            part = getattr(data, split)
            sums = torch.zeros(len(group), 2, dtype=torch.float64)
            chains = [self._seats[lane].chain for lane in group]
            images = part.images.flatten(1)
            _native().evaluate(chains, images, part.labels, *self._scale_and_shift(data), sums, self._cores)
            found |= {lane: (a, b) for lane, (a, b) in zip(group, (sums / len(part)).tolist(), strict=True)}
        return [found[lane] for lane in lanes]

    def state(self, lane: Lane) -> State:
        """The optimizer's moments."""
        return self._seats[lane].state()

    def leave(self, lane: Lane) -> None:
        """Put the weights back."""
        self._seats.pop(lane).read_weights()

    def emptied(self) -> "KernelEngine":
        """The same for other lanes."""
        return KernelEngine(self._cores)

    def _scale_and_shift(self, data: DataSet) -> tuple[Tensor, Tensor]:
        """One of each for every input, where `DataSet.normalise` has one for every channel."""
        if id(data) not in self._constants:
            pixels = prod(data.input_shape[1:])
            scale, shift = (c.reshape(-1).repeat_interleave(pixels) for c in data.constants)
            self._constants[id(data)] = data, scale, shift
        return self._constants[id(data)][1:]


class _Seat:
    """A lane's weights and moments in the kernels' order."""

    def __init__(self, lane: Lane, state: State) -> None:
        layers = fully_connected(lane.model)
        assert layers is not None
        self.lane = lane
        self.names = {id(module): name for name, module in lane.model.named_modules()}
        self.layers = layers
        units = [layers[0].in_features, *(layer.out_features for layer in layers)]
        self.chain = _native().Chain(units, lane.recipe.batch)
        for index, layer in enumerate(layers):
            mask = (lane.masks or {}).get(f"{self.names[id(layer)]}.weight")
            sparse = mask is not None and _sparse_is_faster(mask, lane.recipe.batch, index > 0)
            lane.products[self.names[id(layer)]] = "sparse" if sparse else "dense"
            as_bytes = None if mask is None else mask.view(torch.uint8)
            self.chain.place(index, layer.weight.detach(), _bias(layer), as_bytes, sparse)
        self._load(state)

    def state(self) -> State:
        """The moments of every parameter, as torch's optimizers call them; the weights go into the model."""
        self.read_weights()
        state: dict[str, Tensor] = {}
        for index, layer in enumerate(self.layers):
            for part, moment in enumerate(_MOMENTS[self.lane.recipe.optimizer], 1):
                weight, bias = torch.empty_like(layer.weight), _like(layer.bias)
                self.chain.read(index, part, weight.detach(), bias)
                name = self.names[id(layer)]
                state[f"{moment}/{name}.weight"] = weight.detach()
                if bias is not None:
                    state[f"{moment}/{name}.bias"] = bias
        return state

    @torch.no_grad()
    def read_weights(self) -> None:
        """Put the weights into the model."""
        for index, layer in enumerate(self.layers):
            self.chain.read(index, 0, layer.weight.detach(), _bias(layer))

    def _load(self, state: State) -> None:
        for index, layer in enumerate(self.layers):
            name = self.names[id(layer)]
            for part, moment in enumerate(_MOMENTS[self.lane.recipe.optimizer], 1):
                if (weight := state.get(f"{moment}/{name}.weight")) is not None:
                    self.chain.write(index, part, weight, state.get(f"{moment}/{name}.bias"))


def _there() -> bool:
    try:
        return native() is not None
    except ValueError as error:  # PRUNUS_ISA names what this CPU cannot run
        raise Invalid(str(error)) from error


def _native() -> Any:
    module = native()
    assert module is not None
    return module


def _rates(lane: Lane, count: int) -> Tensor:
    iterations = range(lane.iteration, lane.iteration + count)
    return torch.tensor([learning_rate(lane.recipe, i) for i in iterations], dtype=torch.float64)


def _bias(layer: nn.Linear) -> Tensor | None:
    return None if layer.bias is None else layer.bias.detach()


def _like(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else torch.empty_like(bias).detach()


def _sparse_is_faster(mask: Tensor, batch: int, input_gradient: bool) -> bool:
    """Whether the sparse products of a layer take less time, measured once for each shape and density."""
    kept = int(mask.count_nonzero())
    if kept == 0:
        return True
    # within a fifth of the density the answer is the same
    return _measured(tuple(mask.shape), batch, input_gradient, round(4 * log2(kept / mask.numel())))


@cache
def _measured(shape: tuple[int, int], batch: int, input_gradient: bool, quarters: int) -> bool:
    density = 2 ** (quarters / 4)
    if density > 0.9:
        return False
    outputs, inputs = shape
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density
    chain = _native().Chain([1, inputs, outputs] if input_gradient else [inputs, outputs], batch)
    seconds = {}
    for sparse in (False, True):
        chain.place(int(input_gradient), torch.zeros(shape), None, mask.view(torch.uint8), sparse)
        seconds[sparse] = chain.seconds(int(input_gradient), 5)
    return seconds[True] < seconds[False]
