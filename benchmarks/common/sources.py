"""The data that benchmarks run on: real where its folder is given, else images of the same size made here."""

import os
from pathlib import Path

import torch

from prunus.core.seeds import generator
from prunus.data import DataSet, load
from prunus.data.dataset import Decoded, Split, hold_out


def mnist() -> DataSet:
    """MNIST from PRUNUS_MNIST or ../shared/data/mnist, or random images of its shape."""
    return _source("PRUNUS_MNIST", "../shared/data/mnist", 60_000, (1, 28, 28))


def cifar10() -> DataSet:
    """CIFAR-10 from PRUNUS_CIFAR10 or ../shared/data/cifar10, or random images of its shape."""
    return _source("PRUNUS_CIFAR10", "../shared/data/cifar10", 50_000, (3, 32, 32))


def _source(variable: str, default: str, count: int, shape: tuple[int, int, int]) -> DataSet:
    folder = Path(os.environ.get(variable, default))
    if folder.is_dir():
        return load(str(folder), validation=5000)
    draw = generator(0, "images")
    images = torch.randint(256, (count, *shape), generator=draw, dtype=torch.uint8)
    split = Split(images, torch.randint(10, (count,), generator=draw))
    return hold_out("random images", Decoded(tuple("0123456789"), split, split[:10_000]), 5000, 0)
