"""What holding a mask costs: one training step with a mask, over the same step without.

One thread, process CPU time, the ways in turn, medians of the ratio within a turn. The first table is the
operation alone: three ways to zero the dropped weights of LeNet's first layer.

`prunus.apply` passes over the weights twice a step: over the gradient, and over the weights once the optimizer has
written them. Adam without `fused=True` is slow under any mask: the square root that PyTorch calls on a CPU takes
several times as long where its argument is exactly zero, and so are the second moments of dropped weights.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from prunus.core.apply import apply
from prunus.core.masks import Masks

DENSITY = 0.2
Way = Callable[[nn.Module, Masks], object]


class Times(nn.Module):
    """The parametrization weight × mask, a common way to train under a mask."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.float())

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def dense(_model: nn.Module, _masks: Masks) -> None:
    """No mask at all."""


def torch_prune(model: nn.Module, masks: Masks) -> None:
    for name, mask in masks.items():
        prune.custom_from_mask(model.get_submodule(name.rpartition(".")[0]), "weight", mask)


def product(model: nn.Module, masks: Masks) -> None:
    for name, mask in masks.items():
        parametrize.register_parametrization(model.get_submodule(name.rpartition(".")[0]), "weight", Times(mask))


WAYS: dict[str, Way] = {
    "dense": dense,
    "prunus.apply": apply,
    "torch.nn.utils.prune": torch_prune,
    "weight × mask parametrization": product,
}


def lenet() -> tuple[nn.Module, Tensor]:
    layers = [nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)]
    return nn.Sequential(*layers), torch.rand(60, 1, 28, 28)


def conv() -> tuple[nn.Module, Tensor]:
    layers: list[nn.Module] = []
    for before, after in [(3, 64), (64, 64), (64, 128), (128, 128)]:
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if before == after else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8192, 10)), torch.rand(16, 3, 32, 32)


def stepper(build: Callable[[], tuple[nn.Module, Tensor]], way: Way, optimizer_type: Callable) -> Callable[[], object]:
    torch.manual_seed(0)
    model, x = build()
    way(model, random_masks(model))
    y = torch.arange(len(x)) % 10
    optimizer = optimizer_type(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def random_masks(model: nn.Module) -> Masks:
    draws = torch.Generator().manual_seed(0)
    return Masks({n: torch.rand(m.shape, generator=draws) < DENSITY for n, m in Masks.full(model).items()})


def measure(steps: dict[str, Callable[[], object]], rounds: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of process CPU time a step, once a round for each way, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            for _ in range(repeats):
                step()
            seconds[name].append((time.process_time() - start) / repeats)
    return seconds


def operations() -> dict[str, Callable[[], object]]:
    weight, kept = torch.randn(300, 784), torch.rand(300, 784) < DENSITY
    product, bits, dropped = kept.float(), kept.to(torch.int32).neg_(), ~kept
    return {
        "× float mask (leaves NaN)": lambda: weight.mul_(product),
        "& integer mask (prunus.apply)": lambda: weight.view(torch.int32).bitwise_and_(bits),
        "masked_fill_": lambda: weight.masked_fill_(dropped, 0),
    }


def add_rows(table: Table, title: str, seconds: dict[str, list[float]]) -> None:
    first = next(iter(seconds.values()))
    for name, taken in seconds.items():
        # the ratio within each round, so that what else the machine does cancels out
        ratio = statistics.median(t / f for t, f in zip(taken, first, strict=True))
        table.add_row(title, name, f"{1000 * statistics.median(taken):.3f}", f"{ratio:.3f}")
        title = ""
    table.add_section()


def main() -> None:
    torch.set_num_threads(1)
    alone = Table("weights", "way", "ms", "ratio", title="zeroing dropped weights, one thread")
    add_rows(alone, "300 × 784", measure(operations(), rounds=21, repeats=50))
    sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=1e-4)
    adam = partial(torch.optim.Adam, lr=1e-3)
    table = Table("network", "way", "ms a step", "over dense", title=f"training step, density {DENSITY}, one thread")
    for title, build, optimizer, rounds, repeats in [
        ("LeNet-300-100, batch 60, SGD", lenet, sgd, 41, 10),
        ("LeNet-300-100, batch 60, Adam, fused", lenet, partial(adam, fused=True), 41, 10),
        ("LeNet-300-100, batch 60, Adam", lenet, adam, 41, 10),
        ("4 conv layers, BatchNorm, batch 16, SGD", conv, sgd, 21, 1),
    ]:
        steps = {name: stepper(build, way, optimizer) for name, way in WAYS.items()}
        add_rows(table, title, measure(steps, rounds, repeats))
    for each in (alone, table):
        Console(width=115).print(each)


if __name__ == "__main__":
    main()
