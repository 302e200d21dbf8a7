"""What learning a mask costs: one edge-popup step over the same network's dense step.

Dense, `prunus.supermask` and a plain transcription (common/plain_popup.py) train in turn in one process: SGD with
momentum and weight decay, batch 128, density 0.5; one thread, process CPU time on a CPU, and events on a GPU. Medians
of the ratio within a turn. Before anything is timed the two masks are compared: after a few steps they must agree.

Run: python benchmarks/supermask.py [--models lenet-300-100,conv-6,conv-8,resnet-18] [--rounds 9] [--device cuda]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

import prunus
from common.plain_popup import popup
from prunus.models import build
from prunus.supermasks import supermask_of

DENSITY, BATCH, RATE = 0.5, 128, 0.1
SHAPES = {"lenet-300-100": (1, 28, 28)}
STEPS = {"lenet-300-100": 20}  # timed together, where one step is short

Step = Callable[[], object]


def network(name: str, device: str) -> nn.Module:
    model = build(name, SHAPES.get(name, (3, 32, 32)), 10, generator=torch.Generator().manual_seed(0))
    return model.to(device)


def ways(name: str, device: str) -> dict[str, tuple[nn.Module, list[nn.Parameter]]]:
    """The models to train, with what is trained in each."""
    dense, ours, plain = (network(name, device) for _ in range(3))
    prunus.supermask(ours, prunus.EdgePopup(density=DENSITY))
    first = {n: layer.learned.detach() for n, layer in supermask_of(ours).layers.items()}
    return {
        "dense": (dense, list(dense.parameters())),
        "prunus": (ours, prunus.scores(ours)),
        "plain": (plain, popup(plain, first, DENSITY)),
    }


def stepper(model: nn.Module, learned: list[nn.Parameter], name: str, device: str) -> Step:
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, *SHAPES.get(name, (3, 32, 32)), generator=draws).to(device)
    y = (torch.arange(BATCH) % 10).to(device)
    optimizer = torch.optim.SGD(learned, lr=RATE, momentum=0.9, weight_decay=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def check(models: dict[str, tuple[nn.Module, list[nn.Parameter]]], steps: dict[str, Step]) -> float:
    """The fraction of weights on which the two masks agree after three steps (roundings may move a few)."""
    for _ in range(3):
        steps["prunus"]()
        steps["plain"]()
    masks = prunus.masks_of(models["prunus"][0])
    same = 0
    for name, mask in masks.items():
        path, _, attribute = name.rpartition(".")
        plain = models["plain"][0].get_submodule(path)
        same += int(((getattr(plain, attribute) != 0) == mask).sum())
    return same / masks.total


def seconds(step: Step, times: int, device: str) -> float:
    if device == "cpu":
        began = time.process_time()
        for _ in range(times):
            step()
        return (time.process_time() - began) / times
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(times):
        step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000 / times


def compare(name: str, rounds: int, device: str) -> None:
    """One row of the table."""
    models = ways(name, device)
    steps = {way: stepper(*models[way], name, device) for way in models}
    agree = check(models, steps)
    assert agree > 0.999, f"{name}: the masks agree on {agree:.4%} of the weights only"
    taken: dict[str, list[float]] = {way: [] for way in steps}
    times = STEPS.get(name, 1) if device == "cpu" else 20
    for _ in range(rounds):
        for way, step in steps.items():
            taken[way].append(seconds(step, times, device))
    ratios = {w: statistics.median(t / d for t, d in zip(taken[w], taken["dense"], strict=True)) for w in taken}
    dense = 1000 * statistics.median(taken["dense"])
    print(f"{name:14} {dense:12.2f} {ratios['prunus']:8.3f} {ratios['plain']:8.2f} {agree:10.6f}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="lenet-300-100,conv-6,conv-8,resnet-18")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'model':14} {'dense, ms':>12} {'prunus':>8} {'plain':>8} {'same mask':>10}")
    for name in given.models.split(","):
        compare(name, given.rounds, given.device)


if __name__ == "__main__":
    main()
