"""Networks that draw random numbers while they train (dropout), and the streams that they draw from."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn

from prunus.core.seeds import derive
from prunus.training.lane import Lane

#: Modules that are known to draw nothing; a network of other modules is tried.
_QUIET = (
    nn.Sequential,
    nn.Flatten,
    nn.Identity,
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.ReLU,
    nn.GELU,
    nn.Tanh,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
)


def draws(lane: Lane) -> bool:
    """Whether the network draws random numbers while it trains: tried on a copy."""
    if all(type(module) in _QUIET for module in lane.model.modules()):
        return False
    model: nn.Module = deepcopy(lane.model).train()
    with torch.no_grad(), global_generator(lane.device, seeded(lane)):
        before = generator_state(lane.device)
        model(lane.data.normalise(lane.data.train.images[:2]))
        after = generator_state(lane.device)
    return any(not torch.equal(before[name], after[name]) for name in before)


def seeded(lane: Lane, stream: str = "dropout") -> dict[str, Tensor]:
    """The state of the global generators at the beginning of one of the lane's own streams."""
    with global_generator(lane.device, {}):
        torch.manual_seed(derive(lane.seed, stream))
        return generator_state(lane.device)


def generator_state(device: torch.device) -> dict[str, Tensor]:
    """The state of the global generators that a network on `device` may draw from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


@contextmanager
def global_generator(device: torch.device, state: dict[str, Tensor]) -> Iterator[None]:
    """With the global generators in `state` (empty: as they are); afterwards they are what they were before."""
    before = generator_state(device)
    try:
        _set_generator(device, state)
        yield
    finally:
        _set_generator(device, before)


def _set_generator(device: torch.device, state: dict[str, Tensor]) -> None:
    if "cpu" in state:
        torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
