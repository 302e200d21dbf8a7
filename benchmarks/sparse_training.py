"""What sparse training costs: a step over the dense step, a topology update over sorting, memory over dense training.

One thread, process CPU time, the ways in turn, medians of the ratio within a turn.

- a step between updates, and 100 steps of which one is an update, over the same steps of the dense network;
- one RigL update at 10 % density (ERK), over two full sorts a layer (weights to drop by, gradients to grow by) and over
  two `topk` a layer; the masks are compared with those of the sorts;
- the largest resident set of a process that trains, over that of one that trains the dense network, less what both
  have before the first step.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from math import floor
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from prunus.models import build
from prunus.sparse_training import RigL

DENSITY, EVERY = 0.1, 100
#: Network, images and batch of the steps that are timed, and how many steps are timed at once.
STEPS = [("lenet-300-100", (1, 28, 28), 128, 50), ("conv-4", (3, 32, 32), 32, 2), ("resnet-18", (3, 32, 32), 16, 1)]
UPDATES = [("resnet-18", (3, 32, 32), 10), ("resnet-50", (3, 224, 224), 1000)]


class Training:
    """A network, and one step of its training."""

    def __init__(self, name: str, shape: tuple[int, int, int], batch: int, sparse: bool) -> None:
        self.model = build(name, shape, 10, generator=torch.Generator().manual_seed(0))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        self.images, self.labels = torch.randn(batch, *shape), torch.arange(batch) % 10
        self.rigl = RigL(self.model, self.optimizer, DENSITY, total_steps=10**9, every=EVERY) if sparse else None

    def step(self) -> None:
        """Forward, backward, optimizer, and the method's own."""
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(self.images), self.labels).backward()
        self.optimizer.step()
        if self.rigl:
            self.rigl.step()


def timed(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def steps_over_dense(
    name: str, shape: tuple[int, int, int], batch: int, count: int
) -> tuple[float, float, float, float]:
    """Milliseconds of a dense step, and over it: a step between updates, one in 100 being one, the update itself."""
    dense, sparse = (Training(name, shape, batch, kind) for kind in (False, True))
    assert sparse.rigl
    ratios, plain, updates = [], [], []
    for turn in range(22):
        sparse.rigl.steps = 0  # so that the next steps are no updates
        seconds = [timed(lambda one=one: [one.step() for _ in range(count)]) for one in (dense, sparse)]
        sparse.rigl.steps = EVERY - 2
        sparse.step()
        update = timed(sparse.step)
        if turn > 1:
            plain.append(seconds[0] / count)
            ratios.append(seconds[1] / seconds[0])
            updates.append(update * count / seconds[0])
    between, update = statistics.median(ratios), statistics.median(updates)
    return 1000 * statistics.median(plain), between, ((EVERY - 1) * between + update) / EVERY, update


def by_sorting(weight: Tensor, mask: Tensor, gradient: Tensor, fraction: float) -> Tensor:
    """The mask after an update, by two full sorts."""
    kept = int(mask.count_nonzero())
    count = floor(fraction * kept)
    strongest = weight.abs().masked_fill(~mask, -1).reshape(-1).sort(descending=True, stable=True).indices
    after = torch.zeros(weight.numel(), dtype=torch.bool).index_fill_(0, strongest[: kept - count], True)
    largest = gradient.abs().reshape(-1).masked_fill(after, -1).sort(descending=True, stable=True).indices
    return after.index_fill_(0, largest[:count], True).view(weight.shape)


def by_topk(weight: Tensor, mask: Tensor, gradient: Tensor, fraction: float) -> Tensor:
    """The same by two `topk`; ties go anyhow."""
    kept = int(mask.count_nonzero())
    count = floor(fraction * kept)
    strongest = weight.abs().masked_fill(~mask, -1).reshape(-1).topk(kept - count).indices
    after = torch.zeros(weight.numel(), dtype=torch.bool).index_fill_(0, strongest, True)
    largest = gradient.abs().reshape(-1).masked_fill(after, -1).topk(count).indices
    return after.index_fill_(0, largest, True).view(weight.shape)


def update_over_sorting(name: str, shape: tuple[int, int, int], classes: int) -> tuple[int, float, float, float]:
    """Number of weights, milliseconds of an update, and its time over that of the sorts and of `topk`."""
    model = build(name, shape, classes, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    rigl = RigL(model, optimizer, DENSITY, total_steps=10**9, every=EVERY)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape)
    optimizer.step()
    ours, sorts, topks = [], [], []
    for turn in range(6):
        gradients = {n: torch.randn(layer.weight.shape) for n, layer in rigl.layers.items()}
        for layer_name, layer in rigl.layers.items():
            layer.weight.grad = gradients[layer_name].clone()
        before = {n: (layer.weight.detach().clone(), layer.mask, gradients[n], 0.3) for n, layer in rigl.layers.items()}
        expected: dict[str, Tensor] = {}
        with torch.no_grad():
            sort = timed(lambda b=before, e=expected: e.update({n: by_sorting(*given) for n, given in b.items()}))
            topk = timed(lambda b=before: [by_topk(*given) for given in b.values()])
            own = timed(lambda: rigl.update(1))
        assert all(torch.equal(rigl.masks[n], mask) for n, mask in expected.items())
        if turn:
            ours.append(own)
            sorts.append(own / sort)
            topks.append(own / topk)
    size = sum(layer.size for layer in rigl.layers.values())
    return size, 1000 * statistics.median(ours), statistics.median(sorts), statistics.median(topks)


def status(field: str) -> float:
    """A size of this process in MiB, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def memory(name: str, batch: int, sparse: bool) -> float:
    """The largest resident set of a fresh process that trains across an update, less that without a network, in MiB."""
    code = f"import sparse_training as s; s.report_memory({name!r}, {batch}, {sparse})"
    return float(subprocess.run([sys.executable, "-c", code], cwd=sys.path[0], capture_output=True, check=True).stdout)


def report_memory(name: str, batch: int, sparse: bool) -> None:
    """In the process that is measured."""
    torch.set_num_threads(1)
    nn.functional.cross_entropy(nn.Linear(4, 4)(torch.randn(2, 4)), torch.zeros(2).long()).backward()
    Path("/proc/self/clear_refs").write_text("5")  # the largest so far is forgotten
    before = status("VmRSS")
    training = Training(name, (1, 28, 28) if name.startswith("lenet") else (3, 32, 32), batch, sparse)
    if training.rigl:
        training.rigl.steps = EVERY - 2
    for _ in range(3):
        training.step()
    print(status("VmHWM") - before)


def main() -> None:
    torch.set_num_threads(1)
    console = Console(width=115)
    table = Table(
        "network", "batch", "dense, ms", "between updates", "amortised", "update", title="step over dense step"
    )
    for name, shape, batch, count in STEPS:
        dense, between, amortised, update = steps_over_dense(name, shape, batch, count)
        table.add_row(name, str(batch), f"{dense:.2f}", f"{between:.3f}", f"{amortised:.3f}", f"{update:.2f}")
    console.print(table)
    table = Table("network", "weights", "ms", "over sorts", "over topk", title=f"RigL update, density {DENSITY}")
    for name, shape, classes in UPDATES:
        size, own, sorts, topks = update_over_sorting(name, shape, classes)
        table.add_row(name, f"{size:,}", f"{own:.0f}", f"{sorts:.3f}", f"{topks:.3f}")
    console.print(table)
    table = Table("network", "batch", "dense, MiB", "over dense", title="largest resident set")
    for name, batch in [("lenet-300-100", 128), ("resnet-18", 16), ("resnet-18", 128)]:
        dense, sparse = (memory(name, batch, kind) for kind in (False, True))
        table.add_row(name, str(batch), f"{dense:.0f}", f"{sparse / dense:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
