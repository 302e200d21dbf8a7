"""Milliseconds an iteration of the training loop, against the loop that people write.

LeNet-300-100 with a mask of 20 % density, batch 60, Adam: on MNIST where its folder is given (PRUNUS_MNIST, or
../shared/data/mnist), else on images of the same size made here. The usual loop is a DataLoader over decoded
PIL images with a transform, and weights multiplied by their masks in each forward; a second one has the images in
one tensor instead. All run in one process, in turn; medians of the rounds.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.data import DataSet, load, normalise
from prunus.data.dataset import Decoded, Split, hold_out
from prunus.models import build
from prunus.training import Recipe
from prunus.training.loop import Trainer

ROUNDS, ITERATIONS = 7, 100


def data() -> DataSet:
    """MNIST, or random images of its shape."""
    folder = Path(os.environ.get("PRUNUS_MNIST", "../shared/data/mnist"))
    if folder.is_dir():
        return load(str(folder), validation=5000)
    draw = generator(0, "images")
    images = torch.randint(256, (60_000, 1, 28, 28), generator=draw, dtype=torch.uint8)
    split = Split(images, torch.randint(10, (60_000,), generator=draw))
    return hold_out("random", Decoded(tuple("0123456789"), split, split[:100]), 5000, 0)


class Pictures(Dataset):
    """Decoded PIL images, turned into normalised tensors one at a time, as torchvision's MNIST does."""

    def __init__(self, source: DataSet) -> None:
        self.source = source
        self.images = source.train.images[:, 0].numpy()
        self.mean, self.std = float(source.mean[0]), float(source.std[0])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.images[index], mode=None)
        tensor = torch.from_numpy(np.array(image, dtype=np.uint8)).unsqueeze(0).float().div(255)
        return tensor.sub(self.mean).div(self.std), int(self.source.train.labels[index])


class MaskedLinear(nn.Linear):
    """A linear layer that multiplies its weight by a mask in each forward."""

    mask: Tensor

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's own name
        """The masked layer."""
        return F.linear(input, self.weight * self.mask, self.bias)


def usual(source: DataSet, masks: Masks, batches: Callable[[], Iterator[Any]]) -> Callable[[], None]:
    """One iteration of the loop that people write."""
    network = model(source)
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            module.__class__ = MaskedLinear
            module.register_buffer("mask", masks[f"{name}.weight"].float())
    optimizer = torch.optim.Adam(network.parameters(), lr=1.2e-3)
    stream = batches()

    def step() -> None:
        images, labels = next(stream)
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return step


def model(source: DataSet) -> nn.Module:
    """LeNet-300-100, freshly initialised."""
    return build("lenet-300-100", source.input_shape, len(source.classes), generator=generator(0, "initialisation"))


def from_loader(source: DataSet) -> Iterator[Any]:
    """Endless batches from a DataLoader of PIL images."""
    while True:
        yield from DataLoader(Pictures(source), 60, shuffle=True, drop_last=True)


def from_tensor(source: DataSet) -> Iterator[Any]:
    """Endless batches from one float tensor."""
    images = normalise(source.train.images, source.mean, source.std)
    while True:
        for chosen in torch.randperm(len(images)).split(60):
            yield images[chosen], source.train.labels[chosen]


def measure(ways: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median seconds an iteration of each way, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        for name, step in ways.items():
            began = time.perf_counter()
            for _ in range(ITERATIONS):
                step()
            if number:  # the first round warms up
                seconds[name].append((time.perf_counter() - began) / ITERATIONS)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    """Print the table, for one thread and for two."""
    source = data()
    masks = Masks.random(model(source), 0.2, generator=generator(0, "masks"))
    recipe = Recipe().resolved(len(source.train))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        dense = Trainer(model(source), source, recipe)
        masked = Trainer(model(source), source, recipe, masks=masks)
        found = measure(
            {
                "DataLoader, mask in each forward": usual(source, masks, lambda: from_loader(source)),
                "one tensor, mask in each forward": usual(source, masks, lambda: from_tensor(source)),
                "Prunus, masked": masked.step,
                "Prunus, dense": dense.step,
            }
        )
        slowest = next(iter(found.values()))
        print(f"{source.name}, LeNet-300-100, batch 60, {threads} thread{'s' if threads > 1 else ''}")
        for name, seconds in found.items():
            print(f"  {name:34} {1000 * seconds:6.2f} ms an iteration  {slowest / seconds:5.1f}×")
        assert all(not p[mask == 0].any() for p, mask in masked.masked), "a masked weight is not zero"


if __name__ == "__main__":
    sys.exit(main())
