"""Pruning at initialization against a plain transcription of each algorithm: one thread, equal masks.

VGG-16, ResNet-18 and ResNet-50 for CIFAR-100, 1 % of the weights kept, data of ten random images a class of ten.
The transcription (common/plain_pruning.py) selects by `torch.kthvalue` and not by a sort, which would take several
times as long again. Times are process time, of the two ways in turn; the floor is the forward and backward passes
alone that the algorithm cannot do without. Memory is the growth of the resident set at its peak, in a process of its
own, over what the parameters take. SynFlow on ResNet-50 is in 64 bits both ways.

Run: python benchmarks/prune.py [--models vgg-16-bn,resnet-18,resnet-50] [--rounds 100] [--repeat 3]
"""

import argparse
import copy
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

import prunus
from common import plain_pruning as plain
from prunus.models import build

SHAPE, CLASSES, DENSITY = (3, 32, 32), 100, 0.01
CRITERIA = ("random", "magnitude", "snip", "grasp", "synflow")

Way = Callable[[], object]


def network(name: str) -> nn.Module:
    return build(name, SHAPE, CLASSES, generator=torch.Generator().manual_seed(0)).eval()


def data() -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(1)
    return [(torch.randn(100, *SHAPE, generator=draws), torch.arange(100) % 10)]


def ours(model: nn.Module, criterion: str, rounds: int) -> prunus.Masks:
    made = {
        "random": lambda: prunus.prune(model, prunus.Random(), DENSITY, generator=torch.Generator().manual_seed(0)),
        "magnitude": lambda: prunus.prune(model, prunus.Magnitude(), DENSITY),
        "snip": lambda: prunus.prune(model, prunus.SNIP(per_class=None), DENSITY, batches=data()),
        "grasp": lambda: prunus.prune(model, prunus.GraSP(per_class=None, mode="eval"), DENSITY, batches=data()),
        "synflow": lambda: prunus.prune(model, prunus.SynFlow(torch.ones(1, *SHAPE)), DENSITY, rounds=rounds),
    }
    return made[criterion]()


def theirs(model: nn.Module, criterion: str, rounds: int) -> plain.Masked:
    made = {
        "random": lambda: plain.random(model, DENSITY),
        "magnitude": lambda: plain.magnitude(model, DENSITY),
        "snip": lambda: plain.snip(model, data(), DENSITY),
        "grasp": lambda: plain.grasp(model, data(), DENSITY),
        "synflow": lambda: plain.synflow(wide(model), SHAPE, DENSITY, rounds),
    }
    return made[criterion]()


def wide(model: nn.Module) -> nn.Module:
    """ResNet-50's flow is beyond 32 bits: Prunus finds that out, the transcription has to be told."""
    return copy.deepcopy(model).double() if sum(1 for _ in plain.weights_of(model)) > 50 else model


def floor(model: nn.Module, criterion: str, rounds: int) -> float:
    """Seconds of the passes alone."""
    model = wide(model) if criterion == "synflow" else model
    leaves = list(plain.weights_of(model).values())
    (inputs, targets), one = data()[0], torch.ones(1, *SHAPE, dtype=leaves[0].dtype)

    def first(create_graph: bool = False) -> tuple[Tensor, ...]:
        loss = nn.functional.cross_entropy(model(inputs), targets)
        return torch.autograd.grad(loss, leaves, create_graph=create_graph)

    def second() -> None:
        torch.autograd.grad(sum((g.detach() * g).sum() for g in first(True)), leaves)  # type: ignore[arg-type]

    if criterion == "synflow":
        return rounds * median(seconds(lambda: torch.autograd.grad(model(one).sum(), leaves)) for _ in range(7))
    passes: dict[str, Way] = {"snip": first, "grasp": second}
    return seconds(passes[criterion]) if criterion in passes else 0.0


def seconds(work: Way) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def compare(name: str, criterion: str, rounds: int, repeat: int) -> None:
    """One row of the table; stops if the masks differ."""
    model = network(name)
    ways: list[Way] = [partial(ours, model, criterion, rounds), partial(theirs, model, criterion, rounds)]
    made, expected = ours(model, criterion, min(rounds, 3)), theirs(model, criterion, min(rounds, 3))
    assert all(torch.equal(made[n], expected[n].bool()) for n in made), f"{name}, {criterion}: the masks differ"
    times: list[list[float]] = [[], []]
    for _ in range(1 if criterion == "synflow" else repeat):
        for into, way in zip(times, ways, strict=True):
            into.append(seconds(way))
    mine, other = map(median, times)
    memory = [peak(way, name, criterion, rounds) for way in ("ours", "theirs")]
    ratio, least = f"{mine / other:8.2f}", f"{floor(model, criterion, rounds) / other:8.2f}"
    print(
        f"{name:12} {criterion:10} {mine:8.2f} {other:8.2f} {ratio} {least} {memory[0]:8.1f} {memory[1]:8.1f}",
        flush=True,
    )


def peak(way: str, name: str, criterion: str, rounds: int) -> float:
    """Memory at its peak, over the model's parameters, measured in a fresh process (Linux)."""
    command = [sys.executable, __file__, "--peak", way, "--models", name, "--criteria", criterion]
    return float(subprocess.run([*command, "--rounds", str(min(rounds, 30))], capture_output=True, check=True).stdout)


def print_peak(way: str, name: str, criterion: str, rounds: int) -> None:
    run = {"ours": ours, "theirs": theirs}[way]
    run(network("resnet-20"), criterion, 1)  # libraries and their caches
    model = network(name)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    before = _resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    run(model, criterion, rounds)
    print((_resident("VmHWM") - before) / size)


def _resident(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(field + ":"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="vgg-16-bn,resnet-18,resnet-50")
    parser.add_argument("--criteria", default=",".join(CRITERIA))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peak")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.peak:
        print_peak(given.peak, given.models, given.criteria, given.rounds)
        return
    heads = ("ours, s", "plain, s", "ratio", "floor", "memory", "plain's")
    print(f"{'model':12} {'criterion':10}", *(f"{head:>8}" for head in heads))
    for name in given.models.split(","):
        for criterion in given.criteria.split(","):
            compare(name, criterion, given.rounds, given.repeat)


if __name__ == "__main__":
    main()
