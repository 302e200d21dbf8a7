"""The training loop that people write: a DataLoader of images, and masks multiplied in each forward."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from prunus.core.masks import Masks
from prunus.data import DataSet, normalise


class Pictures(Dataset):
    """Decoded PIL images, turned into normalised tensors one at a time, as torchvision's data sets do."""

    def __init__(self, source: DataSet) -> None:
        self.labels = source.train.labels
        self.images = source.train.images.cpu().permute(0, 2, 3, 1).squeeze(3).numpy()
        self.mean, self.std = (t.float().cpu().reshape(-1, 1, 1) for t in (source.mean, source.std))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = torch.from_numpy(np.array(Image.fromarray(self.images[index]), dtype=np.uint8))
        tensor = (pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels.unsqueeze(0)).contiguous()
        return tensor.float().div(255).sub(self.mean).div(self.std), int(self.labels[index])


class MaskedLinear(nn.Linear):
    """A linear layer that multiplies its weight by a mask in each forward."""

    mask: Tensor

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's own name
        """The masked layer."""
        return F.linear(input, self.weight * self.mask, self.bias)


class MaskedConv2d(nn.Conv2d):
    """A convolution that multiplies its weight by a mask in each forward."""

    mask: Tensor

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """The masked layer."""
        return self._conv_forward(input, self.weight * self.mask, self.bias)


def usual_loop(
    network: nn.Module, masks: Masks, lr: float, batches: Iterator[tuple[Tensor, Tensor]]
) -> Callable[[], None]:
    """One iteration of it, on the device of the network."""
    masked = {nn.Linear: MaskedLinear, nn.Conv2d: MaskedConv2d}
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.__class__ = masked[type(module)]
            module.register_buffer("mask", masks[f"{name}.weight"].to(module.weight))
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    device = next(network.parameters()).device

    def step() -> None:
        images, labels = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(network(images.to(device)), labels.to(device)).backward()
        optimizer.step()

    return step


def from_loader(source: DataSet, batch: int) -> Iterator[Any]:
    """Endless batches from a DataLoader of PIL images."""
    while True:
        yield from DataLoader(Pictures(source), batch, shuffle=True, drop_last=True)


def from_tensor(source: DataSet, batch: int) -> Iterator[Any]:
    """Endless batches from one float tensor."""
    images = normalise(source.train.images, source.mean, source.std)
    while True:
        for chosen in torch.randperm(len(images)).split(batch):
            yield images[chosen], source.train.labels[chosen]
