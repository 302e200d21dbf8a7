"""Methods with options, and small pieces that the tests of supermasks share."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunus.supermasks import METHODS, Method, scores, supermask_of
from toy import batch

#: Options to try for a method by its name; one that is not here is made without any.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "edge-popup": [
        {"density": 0.5},
        {"density": 0.3, "scope": "global"},
        {"density": 0.3, "scope": "erk", "signed": True},
        {"density": 0.2, "schedule": "cubic", "steps": 6, "start": 1},
    ],
    "biprop": [{"density": 0.4}, {"density": 0.2, "scope": "global", "schedule": "linear", "steps": 6}],
    "bernoulli": [{}, {"rescale": True}, {"draw": "round"}, {"draw": "round", "rescale": True}],
    "gem-miner": [{"density": 0.2, "steps": 9, "every": 2}, {"density": 1.0}],
    "piggyback": [{}, {"ternary": True, "balance": "layer"}, {"balance": "entry"}],
    "neural-wirings": [{"density": 0.5}, {"density": 0.2, "scope": "global", "schedule": "linear", "steps": 6}],
    "movement": [{"density": 0.3, "schedule": "cubic", "steps": 6}, {"density": 0.5, "scope": "global"}],
}
#: Each way to make a method: of every row of the table, those of other packages included.
WAYS: list[Callable[[], Method]] = [
    partial(METHODS[name], **options) for name in METHODS for options in OPTIONS.get(name, [{}])
]
IDS = [
    f"{name}{'-' * bool(options)}{'-'.join(str(value) for value in options.values())}"
    for name in METHODS
    for options in OPTIONS.get(name, [{}])
]
#: One way for each method.
ONE_EACH: list[Callable[[], Method]] = [partial(METHODS[name], **OPTIONS.get(name, [{}])[0]) for name in METHODS]

#: Optimizers that would move what has a gradient, momentum or weight decay.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": partial(torch.optim.Adam, lr=0.01, weight_decay=0.1),
}


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer of what a supermask learns."""
    return OPTIMIZERS["sgd"](scores(model))


def output(model: nn.Module, x: Tensor, seed: int = 0) -> Tensor:
    """The output, with the draws of a seed where masks are drawn; torch's own generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model(x)


def learn(model: nn.Module, kind: type[nn.Module], optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    """Some steps of training."""
    for turn in range(steps):
        x, y = batch(kind, seed=seed + turn)
        optimizer.zero_grad()
        nn.functional.cross_entropy(output(model, x, seed + turn), y).backward()
        optimizer.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the weights that masks act on, as they are without masks."""
    return {name: layer.weight.detach().clone() for name, layer in supermask_of(model).layers.items()}


def others(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters but the scores."""
    learned = {id(parameter) for parameter in scores(model)}
    return {name: p.detach().clone() for name, p in model.named_parameters() if id(p) not in learned}


def same(these: dict[str, Tensor], those: dict[str, Tensor]) -> bool:
    """Whether names and all bits are equal."""
    return list(these) == list(those) and all(torch.equal(these[name], those[name]) for name in these)
