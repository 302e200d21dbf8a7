"""The smallest networks of each sort, in float64, and slow obvious ways to prune them."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.pruning import Scoring

Scores = dict[str, Tensor]


class Block(nn.Module):
    """A convolution, a block around a shortcut with a convolution of its own, and a layer."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU, bias: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2, bias=bias)
        self.second = nn.Conv2d(4, 6, 1, bias=bias)
        self.shortcut = nn.Conv2d(4, 6, 1, stride=2, bias=bias)
        self.head = nn.Linear(6, 3, bias=bias)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        x = self.act(self.second(self.act(self.first(x))) + self.shortcut(x))
        return self.head(x.mean((2, 3)))


def mlp(activation: type[nn.Module] = nn.ReLU, bias: bool = True) -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 4, bias), activation(), nn.Linear(4, 6, bias), activation(), nn.Linear(6, 3, bias)
    )


def conv(activation: type[nn.Module] = nn.ReLU, bias: bool = True) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1, bias=bias), nn.BatchNorm2d(3), activation(), nn.MaxPool2d(2)),
        *(nn.Conv2d(3, 4, 2, bias=bias), activation(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3, bias)),
    )


#: The sorts, and the shape of an input of each.
NETS: dict[Callable[..., nn.Module], tuple[int, ...]] = {mlp: (5,), conv: (2, 6, 6), Block: (2, 6, 6)}


def tiny(
    kind: Callable[..., nn.Module], activation: type[nn.Module] = nn.ReLU, seed: int = 0, bias: bool = True
) -> nn.Module:
    """A network of a sort, in float64; with biases, none is zero, not those of BatchNorm either."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(activation, bias).double()
        for name, parameter in model.named_parameters():
            if bias and name.endswith("bias"):
                nn.init.uniform_(parameter, -0.3, 0.3)
    return model


def some(kind: Callable[..., nn.Module], count: int = 1, size: int = 8, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Batches for a network of the sort."""
    draws = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, *NETS[kind], generator=draws, dtype=torch.float64),
            torch.randint(3, (size,), generator=draws),
        )
        for _ in range(count)
    ]


def scoring(model: nn.Module, masks: Masks | None = None, **given: object) -> Scoring:
    """What a criterion is given, for a direct call."""
    return Scoring(model, prunable(model), Masks.full(model) if masks is None else masks, **given)  # type: ignore[arg-type]


def half(model: nn.Module, density: float = 0.6, seed: int = 3) -> Masks:
    """Some masks."""
    return Masks.random(model, density, generator=torch.Generator().manual_seed(seed))


def masked_copy(model: nn.Module, masks: Masks) -> nn.Module:
    """A copy with zeros in the place of what is pruned, in evaluation mode."""
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, weight in prunable(twin).items():
            weight.mul_(masks[name])
    return twin


def best(scores: Scores, count: int, among: Masks | None = None) -> Masks:
    """Masks of the largest scores among those that `among` keeps, by sorting a list."""
    entries = [
        (score, name, place)
        for name, tensor in scores.items()
        for place, score in enumerate(tensor.flatten().tolist())
        if among is None or among[name].flatten()[place]
    ]
    chosen = {(name, place) for _, name, place in sorted(entries, key=lambda entry: -entry[0])[:count]}
    return Masks(
        {
            name: torch.tensor([(name, place) in chosen for place in range(tensor.numel())]).view_as(tensor)
            for name, tensor in scores.items()
        }
    )


def slowly(
    score: Callable[[Masks], Scores], full: Masks, density: float, rounds: int, regrows: bool = False
) -> list[Masks]:
    """The masks after each round of an exponential schedule."""
    masks, every = full, []
    for done in range(1, rounds + 1):
        count = round(density ** (done / rounds) * full.total)
        masks = best(score(masks), count, None if regrows else masks)
        every.append(masks)
    return every
