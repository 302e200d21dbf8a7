"""Toy models, and small pieces that several tests share."""

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from prunus.core.apply import apply
from prunus.core.masks import Masks


class MLP(nn.Sequential):
    """6 → 8 → 7 → 3."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))


class ConvNet(nn.Module):
    """Two convolutions with BatchNorm, for 2 × 6 × 6 images and 3 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.more = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.more(self.features(x)).flatten(1))


class Residual(nn.Module):
    """A grouped and a pointwise convolution around a shortcut, for 2 × 6 × 6 images and 3 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.point = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.point(torch.relu(self.norm(self.grouped(x))))
        return self.head(x.mean((2, 3)))


class Tied(nn.Module):
    """Two linear layers that share one square weight, and two with weights of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.third = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.head(torch.tanh(self.third(x)))


class Transformer(nn.Module):
    """One encoder layer without dropout, for sequences of 5 vectors of 8 and 3 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


#: Each toy model and the shape of one of its inputs.
SHAPES: dict[type[nn.Module], tuple[int, ...]] = {
    MLP: (6,),
    ConvNet: (2, 6, 6),
    Residual: (2, 6, 6),
    Tied: (6,),
    Transformer: (5, 8),
}
MODELS = list(SHAPES)


def build(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    """A toy model whose initial weights depend on `seed` alone; torch's own generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind()


def batch(kind: type[nn.Module], size: int = 12, seed: int = 0, dtype: torch.dtype | None = None) -> tuple:
    """Random inputs and labels for a toy model."""
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(size, *SHAPES[kind], generator=draws).to(dtype or torch.float32)
    return x, torch.randint(3, (size,), generator=draws)


def random_masks(model: nn.Module, density: float = 0.5, seed: int = 0) -> Masks:
    """Masks that keep each prunable weight with probability `density`, by nothing that is under test."""
    draws = torch.Generator().manual_seed(seed)
    return Masks({n: torch.rand(m.shape, generator=draws) < density for n, m in Masks.full(model).items()})


def masked(kind: type[nn.Module] = MLP, density: float = 0.5) -> tuple[nn.Module, Masks]:
    """A toy model that holds random masks, and the masks."""
    model = build(kind)
    masks = random_masks(model, density)
    apply(model, masks)
    return model, masks


def step(model: nn.Module, optimizer: torch.optim.Optimizer, data: tuple[Tensor, Tensor]) -> None:
    """One plain training step."""
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(data[0]), data[1]).backward()
    optimizer.step()


#: Optimizers by name: each moves masked weights, by momentum or weight decay, unless they are held.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    "nesterov, foreach": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, foreach=True),
    "adam": partial(torch.optim.Adam, lr=0.01, weight_decay=0.1),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, amsgrad=True),
    "adamw, fused": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, fused=True),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01, momentum=0.9),
}


def train(model: nn.Module, data: tuple[Tensor, Tensor], steps: int = 3, lr: float = 0.1) -> None:
    """A few plain steps with a new optimizer whose momentum and weight decay would move masked weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=0.1)
    for _ in range(steps):
        step(model, optimizer, data)


def is_sparse(model: nn.Module, masks: Masks) -> bool:
    """Whether each masked weight is exactly zero, and the kept ones are not all zero."""
    named = dict(model.named_parameters(remove_duplicate=False))
    dropped = all(bool((named[name][~mask.to(named[name].device)] == 0).all()) for name, mask in masks.items())
    return dropped and any(bool(named[name].count_nonzero()) for name in masks)


def gradient_is_sparse(model: nn.Module, masks: Masks) -> bool:
    """Whether each masked gradient is exactly zero, and the others are not all zero."""
    for name, parameter in model.named_parameters():
        if name in masks and (parameter.grad is None or not parameter.grad.any()):
            return False
        if name in masks and parameter.grad is not None and parameter.grad[~masks[name]].any():
            return False
    return True


def two_ranks(work: Callable[..., Any], *given: Any) -> list[Any]:
    """What `work(rank, *given)` gives in each of two processes that are one gloo group; it must be importable."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, (folder, work, given), nprocs=2)
        return [torch.load(Path(folder, f"result-{rank}"), weights_only=False) for rank in range(2)]


def _rank(rank: int, folder: str, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(work(rank, *given), Path(folder, f"result-{rank}"))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
