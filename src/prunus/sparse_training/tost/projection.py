"""The learned shortcuts of ghost skip connections, and their stay in an optimizer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from prunus.core.errors import Invalid
from prunus.core.seeds import generator

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class Projection:
    """A learned matrix over the features of a layer's input, behind a gate that begins at 0.

    The matrix is a 1 × 1 convolution with the layer's stride, or for a linear layer `up @ down`. All weights begin
    normal with variance 1 / max(fan-in, fan-out): with 1 / fan-in the gate of a wide layer diverged at a learning rate
    of 0.1.

    Args:
        layer: whose input and output features it has; only read.
        rank: at most, of a linear layer's matrix.
        draws: where the first weights come from.

    Raises:
        Invalid: if the layer has no weights yet.
    """

    def __init__(self, layer: nn.Module, rank: int, draws: torch.Generator) -> None:
        weight = layer.weight
        if isinstance(weight, nn.parameter.UninitializedParameter):
            raise Invalid(f"{type(layer).__name__} is not initialised yet: run one batch through the lazy layer first")
        assert isinstance(weight, Tensor)
        self.stride: tuple[int, ...] = ()
        if isinstance(layer, nn.modules.conv._ConvNd):
            self.stride = layer.stride
            shapes = {"weight": (layer.out_channels, layer.in_channels, *[1] * len(layer.stride))}
        else:
            outputs, inputs = weight.shape if isinstance(layer, nn.Linear) else reversed(weight.shape)
            rank = min(rank, inputs, outputs)
            shapes = {"down": (rank, inputs), "up": (outputs, rank)}
        self.parameters = {"gate": nn.Parameter(torch.zeros_like(weight.detach().flatten()[0]))}
        for name, shape in shapes.items():
            drawn = torch.randn(shape, generator=draws) / max(shape[:2]) ** 0.5
            self.parameters[name] = nn.Parameter(drawn.to(weight))

    def __call__(self, x: Tensor) -> Tensor:
        """The features at the strided places."""
        own = self.parameters
        if self.stride:
            return own["gate"] * _CONVOLUTIONS[len(self.stride)](x, own["weight"], stride=self.stride)
        return own["gate"] * F.linear(F.linear(x, own["down"]), own["up"])


class Projections:
    """The projections of several layers, in and out of an optimizer.

    Args:
        layers: by name.
        optimizer: what trains them.
        rank: see `Projection`.
        seed: of their first weights, with the layer's name.

    Raises:
        Invalid: if there is no optimizer, or there are several processes.
    """

    def __init__(self, layers: Mapping[str, nn.Module], optimizer: Optimizer | None, rank: int, seed: int) -> None:
        if not isinstance(optimizer, Optimizer):
            raise Invalid(f"optimizer is {optimizer!r}; allowed with kind='projection': a torch.optim.Optimizer")
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            world = distributed.get_world_size()
            raise Invalid(f"kind is 'projection' with {world} processes; allowed with several processes: 'identity'")
        self.optimizer = optimizer
        self.of = {n: Projection(layer, rank, generator(seed, "ghost skips", n)) for n, layer in layers.items()}
        self.parameters = {f"{n}.{own}": p for n, ghost in self.of.items() for own, p in ghost.parameters.items()}

    def join(self) -> None:
        """Be trained: the last of the optimizer's parameters."""
        self.optimizer.param_groups[-1]["params"].extend(self.parameters.values())

    def leave(self) -> None:
        """Be trained no longer."""
        own = {id(p) for p in self.parameters.values()}
        for group in self.optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in own]
        for parameter in self.parameters.values():
            self.optimizer.state.pop(parameter, None)
            parameter.grad = None

    def forget_gradients(self) -> None:
        """Be ready for the next backward pass: a loop may only know of the model's own gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The weights by name, and the optimizer's entries by `entry/name`."""
        state: dict[str, Any] = {name: p.detach().clone() for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for entry, value in self.optimizer.state.get(parameter, {}).items():
                if value is not None:
                    state[f"{entry}/{name}"] = value.clone() if isinstance(value, Tensor) else value
        return state

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuse a state of other layers.

        Raises:
            Invalid: naming the first parameter that is missing or of another shape.
        """
        for name, parameter in self.parameters.items():
            if name not in state:
                raise Invalid(f"the state has no {name!r}; allowed: a state of the same layers")
            if state[name].shape != parameter.shape:
                shape, own = tuple(state[name].shape), tuple(parameter.shape)
                raise Invalid(f"{name} has shape {shape} in the state; allowed: {own}")

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])
            entries = {key.partition("/")[0]: value for key, value in state.items() if key.endswith(f"/{name}")}
            self.optimizer.state.pop(parameter, None)
            if entries:
                there = {entry: self._placed(entry, value, parameter) for entry, value in entries.items()}
                self.optimizer.state[parameter] = there

    def _placed(self, entry: str, value: Any, parameter: Tensor) -> Any:
        if not isinstance(value, Tensor):
            return value
        group = self.optimizer.param_groups[-1]
        on_device = entry != "step" or group.get("fused") or group.get("capturable")
        return value.detach().clone().to(parameter.device if on_device else "cpu")
