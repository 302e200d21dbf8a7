"""Training many tickets at once, against the loop that people write, one ticket after the other.

LeNet-300-100 on MNIST and Conv-2 on CIFAR-10, batch 60, Adam: a DataLoader with masks multiplied in each forward, the
same with the images in one tensor, and Prunus with stacks of 1, 4, 16 and 64 tickets, dense and at 3.6 %. Then a whole
lottery-ticket study, all rounds, arms and trials, with everything that belongs to it, against the time that the usual
loop would take for its iterations alone. All in one run, in turn; medians.

    python benchmarks/study.py                # on the CPU, with all cores
    python benchmarks/study.py --cores 1      # one thread, by the CPU time of the process
    python benchmarks/study.py --device cuda
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from common.prototype import prototype
from common.sources import cifar10, mnist
from common.timing import medians
from common.usual import from_loader, from_tensor, usual_loop
from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.data import DataSet
from prunus.models import build
from prunus.studies.resolve import resolve
from prunus.studies.runner import prepare, run
from prunus.training import Lane, Recipe
from prunus.training.cores import available_cores
from prunus.training.engines import engine_for

SPARSE = 0.036


def network(name: str, source: DataSet, seed: int = 0) -> nn.Module:
    """A fresh network on the data's device."""
    fresh = build(name, source.input_shape, len(source.classes), generator=generator(seed, "initialisation"))
    return fresh.to(source.train.images.device)


def masks_for(model: nn.Module, density: float, seed: int) -> Masks:
    """Masks as a ticket has them: each layer at the same density, the output layer at twice it."""
    output = {"fc3.weight"}
    both = [
        Masks.random(model, min(1.0, density * factor), "uniform", generator(seed, "masks", factor))
        for factor in (1, 2)
    ]
    return Masks({name: both[name in output][name] for name in both[0]})


def usual(name: str, source: DataSet, lr: float, loader: bool, cores: int, iterations: int) -> Callable[[], int]:
    """The usual loop on all cores, `iterations` at a time."""
    model = network(name, source)
    batches = (from_loader if loader else from_tensor)(source, 60)
    step = usual_loop(model, masks_for(model, 0.2, 0), lr, batches)

    def some() -> int:
        torch.set_num_threads(cores)
        for _ in range(iterations):
            step()
        _finish(source)
        return iterations

    return some


def stacked(
    name: str, source: DataSet, lr: float, size: int, density: float, cores: int, iterations: int
) -> Callable[[], int]:
    """A stack of `size` tickets, `iterations` at a time; one alone has all cores, several have one each."""
    threads = cores if size == 1 else 1
    torch.set_num_threads(threads)
    recipe = Recipe(iterations=10**6, batch=60, lr=lr, evaluate_every=10**6)
    lanes = []
    for seed in range(size):
        model = network(name, source, seed)
        masks = masks_for(model, density, seed).to(source.train.images.device) if density < 1 else None
        lanes.append(Lane(model, source, recipe, masks, seed))
    engine = engine_for(lanes[0], cores)
    for lane in lanes:
        engine.join(lane, {})

    def some() -> int:
        torch.set_num_threads(threads)
        engine.advance(lanes, [iterations] * size)
        for lane in lanes:
            lane.iteration += iterations
        _finish(source)
        return iterations * size

    return some


def _finish(source: DataSet) -> None:
    if source.train.images.is_cuda:
        torch.cuda.synchronize()


def peak(device: str) -> float:
    """FLOP/s of a product of two matrices of 2048 × 2048, the best of ten."""
    a = torch.rand(2048, 2048, device=device)
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        c = a @ a
        float(c[0, 0])
        best = min(best, time.perf_counter() - began)
    return 2 * 2048**3 / best


def table(title: str, found: dict[str, float]) -> None:
    """Print what each way takes for an iteration of one ticket, and how many times faster than the first it is."""
    print(f"\n{title}")
    first = next(iter(found.values()))
    for way, seconds in found.items():
        print(f"  {way:46} {1000 * seconds:9.3f} ms {first / seconds:7.1f}×")


def lenet(source: DataSet, cores: int, rounds: int) -> float:
    """The table for LeNet-300-100; seconds an iteration of the usual loop."""
    name, lr = "lenet-300-100", 1.2e-3
    ways = {
        "DataLoader, masks in each forward": usual(name, source, lr, True, cores, 60),
        "images in one tensor, masks in each forward": usual(name, source, lr, False, cores, 60),
    }
    for density, about in ((1.0, "dense"), (SPARSE, "3.6 %")):
        for size in (1, 4, 16, 64):
            iterations = max(10, int((100 if density == 1 else 800) / size))
            ways[f"Prunus, {about}, a stack of {size}"] = stacked(name, source, lr, size, density, cores, iterations)
    there = prototype(source, network(name, source), masks_for(network(name, source), SPARSE, 0))
    if there:
        ways["the prototype, 3.6 %, one ticket on one core"] = partial(there, 400)
    found = medians(ways, rounds, time.process_time if cores == 1 else time.perf_counter)
    table(f"{source.name}, LeNet-300-100, an iteration of one ticket", found)
    return found["DataLoader, masks in each forward"]


def conv(source: DataSet, cores: int, rounds: int) -> None:
    """The table for Conv-2."""
    name, lr = "conv-2", 2e-4
    ways = {
        "DataLoader, masks in each forward": usual(name, source, lr, True, cores, 2),
        "images in one tensor, masks in each forward": usual(name, source, lr, False, cores, 2),
    }
    for size in (1, 4, 16):
        ways[f"Prunus, 3.6 %, a stack of {size}"] = stacked(name, source, lr, size, SPARSE, cores, 1)
    table(
        f"{source.name}, Conv-2, an iteration of one ticket",
        medians(ways, rounds, time.process_time if cores == 1 else time.perf_counter),
    )


def study(cores: int, device: str, usual_seconds: float, iterations: int) -> None:
    """A whole study, of shorter trainings, against the usual loop's time for the same number of iterations."""
    folder = Path("../shared/data/mnist")
    data = [("data.name", str(folder))] if folder.is_dir() else [("preset", "quick")]
    settings = {"preset": "paper", "trials": 2, "train.iterations": iterations, "device": device, **dict(data)}
    with tempfile.TemporaryDirectory() as out:
        plan = prepare(resolve("lottery-ticket", settings.items()), Path(out))
        trained = sum(stop - start for start, stop in (cell.span for cell in plan.cells))
        began = time.perf_counter()
        run(plan, "", quiet=True, cores=cores)
        took = time.perf_counter() - began
    usually = trained * usual_seconds
    print(
        f"\nA whole study of {len(plan.cells)} cells, {trained:,} iterations: {took:.1f} s with evaluations and files; "
        f"the usual loop takes {usually:.0f} s for the iterations alone: {usually / took:.1f}×"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=available_cores())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--study-iterations", type=int, default=2000)
    parser.add_argument("--only", choices=["lenet", "conv", "study"])
    options = parser.parse_args()
    torch.set_num_threads(options.cores)
    print(f"{options.cores} cores, {options.device}, torch {torch.__version__}")
    limit = peak(options.device)
    # three products of 266,200 weights, but no input gradient in the first layer
    work = 2 * 60 * (3 * 266_200 - 235_200)
    print(f"matrix products: {limit / 1e9:.0f} GFLOP/s; a dense iteration at that speed: {1000 * work / limit:.3f} ms")
    if options.only in (None, "lenet", "study"):
        seconds = lenet(mnist().to(options.device), options.cores, options.rounds)
        if options.only != "lenet":
            study(options.cores, options.device, seconds, options.study_iterations)
    if options.only in (None, "conv"):
        conv(cifar10().to(options.device), options.cores, max(3, options.rounds // 2))


if __name__ == "__main__":
    sys.exit(main())
