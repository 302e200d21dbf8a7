"""How a network is trained: optimizer, learning rate, length, evaluation."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import cos, pi
from typing import Literal

import torch
from torch import nn

from prunus.core.errors import Invalid, nearest

#: A length of training: iterations as a number or "500it", epochs as "160ep".
Steps = int | str

#: What a network can be computed in.
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training, said in full. Lengths are iterations (`500`, `"500it"`) or epochs (`"160ep"`).

    The defaults are those of LeNet-300-100 on MNIST in Frankle & Carbin, *The Lottery Ticket Hypothesis* (ICLR 2019).

    Args:
        iterations: length of training.
        batch: examples an iteration; what is left over at the end of an epoch is dropped.
        optimizer: `"adam"`, `"adamw"` or `"sgd"`.
        lr: base learning rate.
        momentum: of SGD.
        nesterov: Nesterov's form of SGD's momentum.
        weight_decay: in the optimizer's own sense.
        schedule: of the learning rate after the warm-up: `"constant"`, `"linear"` or `"cosine"` (both to 0 at the
            end), or `"steps"` (times `decay` at each of `milestones`).
        milestones: where `"steps"` steps.
        decay: factor of each step.
        warmup: linear growth of the learning rate from 0, before the schedule.
        evaluate_every: iterations between evaluations; there is always one at the end.
        augment: pad-crop by 4 pixels and horizontal flip of each training image.
        precision: `"float32"`, or `"bfloat16"`: products and convolutions in bfloat16 (PyTorch's autocast); weights,
            moments and losses stay float32.
    """

    iterations: Steps = 50_000
    batch: int = 60
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1.2e-3
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear", "cosine", "steps"] = "constant"
    milestones: tuple[Steps, ...] = ()
    decay: float = 0.1
    warmup: Steps = 0
    evaluate_every: Steps = 100
    augment: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name in ("lr", "batch"):
            if not getattr(self, name) > 0:
                raise Invalid(f"{name} is {getattr(self, name)}; allowed: a number above 0")
        for name in ("momentum", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise Invalid(f"{name} is {getattr(self, name)}; allowed: a number of at least 0")
        if self.nesterov and not self.momentum:
            raise Invalid("nesterov is true without momentum; set momentum above 0")
        if self.momentum and self.optimizer != "sgd":
            raise Invalid(f"momentum is {self.momentum} with optimizer {self.optimizer!r}; allowed: only with 'sgd'")
        if self.precision not in PRECISIONS:
            raise Invalid(f"precision is {self.precision!r}; {nearest(str(self.precision), PRECISIONS)}")
        if bool(self.milestones) != (self.schedule == "steps"):
            raise Invalid(f"milestones is {list(self.milestones)} with schedule {self.schedule!r}; they go together")
        lengths = {"iterations": self.iterations, "evaluate_every": self.evaluate_every, "warmup": self.warmup}
        for name, value in [*lengths.items(), *(("milestones", m) for m in self.milestones)]:
            if in_iterations(value, 1, name) < (name != "warmup"):
                raise Invalid(f"{name} is {value!r}; allowed: at least {int(name != 'warmup')} iteration")

    def resolved(self, examples: int) -> "Recipe":
        """The same recipe with all lengths in iterations, for a training set of `examples`.

        Raises:
            Invalid: if a batch is larger than the training set.
        """
        if self.batch > examples:
            raise Invalid(f"batch is {self.batch}; allowed: at most the {examples} training examples")
        epoch = examples // self.batch

        def resolve(name: str, value: Steps) -> int:
            return in_iterations(value, epoch, name)

        lengths = {n: resolve(n, getattr(self, n)) for n in ("iterations", "warmup", "evaluate_every")}
        milestones = tuple(resolve("milestones", m) for m in self.milestones)
        fields = {**self.__dict__, **lengths, "milestones": milestones}
        return Recipe(**fields)


def in_iterations(value: Steps, epoch: int, name: str = "steps") -> int:
    """A length of training in iterations, given the iterations of an epoch.

    Raises:
        Invalid: if it is neither a whole number, nor one with `it` or `ep` behind it.
    """
    text = str(value).strip()
    number, unit = (text[:-2], text[-2:]) if text.endswith(("it", "ep")) else (text, "it")
    if isinstance(value, bool) or not number.strip().isdecimal():
        raise Invalid(f"{name} is {value!r}; allowed: iterations as 500 or '500it', or epochs as '160ep'")
    return int(number) * (epoch if unit == "ep" else 1)


def learning_rate(recipe: Recipe, iteration: int) -> float:
    """The learning rate of a resolved recipe at `iteration`, counted from 0: a pure function, so rewinding is exact."""
    warmup, length = int(recipe.warmup), int(recipe.iterations)
    if iteration < warmup:
        return recipe.lr * (iteration + 1) / warmup
    progress = (iteration - warmup) / max(1, length - warmup)
    match recipe.schedule:
        case "linear":
            return recipe.lr * (1 - progress)
        case "cosine":
            return recipe.lr * (1 + cos(pi * progress)) / 2
        case "steps":
            return recipe.lr * recipe.decay ** sum(iteration >= int(m) for m in recipe.milestones)
        case _:
            return recipe.lr


def make_optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """A fresh optimizer as the recipe says; the fused kernels make one pass over weights and moments."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
