"""Layer-wise rescaled initialisation: one learned scale for each parameter tensor, before training."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import cycle
from math import isfinite
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from prunus.core.apply import masks_of
from prunus.core.errors import Invalid, nearest
from prunus.core.held import held_in
from prunus.core.params import Globs, device_of, patterns_of
from prunus.core.probing import Batch, Loss, Probe, loss_of, untouched
from prunus.pruning.examples import check_batches
from prunus.sparse_training.tost.phase import check_count, check_number


def rescale_init(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss | None = None,
    *,
    steps: int = 180,
    lr: float = 1e-2,
    eta: float = 0.1,
    gamma: float = 1.0,
    optimizer: Literal["sgd", "adam"] = "sgd",
    smallest: float = 0.01,
    clip: float = 1.0,
    include: Globs | None = None,
    exclude: Globs | None = None,
) -> dict[str, float]:
    """Multiply each parameter tensor of `model` by a positive scale, learned so that a first step of training goes far.

    Scales α start at 1. Each of `steps` steps takes batches B0 and B1 and the gradient g of their mean loss at the
    scaled weights θ. If ‖g‖ > `gamma`, where the norm is ‖g‖₂ for SGD and ‖g‖₁ for Adam, α goes down the slope of ‖g‖.
    Otherwise θ' = θ − `eta` · g / ‖g‖₂ (SGD) or θ − `eta` · sign(g) (Adam), the step itself taken as a constant, and α
    goes down the slope of the mean loss of B0 and a third batch at θ', divided by `eta`. Slopes are clipped to
    ±`clip` and taken by Adam (0.9, 0.999), whose first moments are separate for the two kinds of step and whose second
    moment is shared.

    Zhu, Ni, Xu, Kong, Huang and Goldstein, "GradInit: learning to initialize neural networks for stable and efficient
    training", 2021, NeurIPS; for sparse networks Jaiswal, Ma, Chen, Ding and Wang, "Training your sparse neural network
    better with any mask", 2022, ICML. Defaults are those of the latter's README. Differences from the released code:
    B0 and B1 are two forward passes and not one of both together, so BatchNorm normalises each by itself; gradients of
    masked weights, which training never follows, do not count; a bias that reached 0 may grow again.

    Masks, zeros, signs and the direction of each tensor stay. So do BatchNorm statistics, modes, gradients, generators,
    and frozen parameters. A tensor of zeros keeps the scale 1. Memory: that of a second derivative.

    Args:
        model: any `nn.Module`, at its initial weights. Where `prunus.apply` holds masks these are used; weights that
            are masked in another way should be so in the forward pass.
        batches: an iterable of (inputs, targets), or of mappings for the model; read in turn and over again.
        loss: `loss(outputs, targets)`. Default: the model's own loss if its outputs have one, else cross-entropy.
        steps: number of steps. Default: 180.
        lr: length of a step of a scale. Default: 0.01.
        eta: length of the step of training that is looked ahead. Default: 0.1.
        gamma: the norm of the gradient that is allowed. Default: 1.
        optimizer: what training will begin with, "sgd" or "adam". Default: "sgd".
        smallest: the smallest scale of a tensor that is no bias, in (0, 1]; that of a bias is 0. Default: 0.01.
        clip: the steepest slope of a scale. Default: 1.
        include: glob patterns on parameter names to scale. Default: all that are trained.
        exclude: glob patterns on names to leave as they are.

    Returns:
        The scale of each tensor by its name.

    Raises:
        Invalid: if an option is outside its range, batches are none, or the loss is not finite. The model is as it was
            then.
    """
    _check_options(steps, optimizer, lr=lr, eta=eta, gamma=gamma, clip=clip)
    check_number("smallest", smallest, lambda s: 0 < s <= 1, "a number in (0, 1]")
    check_batches(batches)
    named = _chosen(model, include, exclude)
    lookahead = _Lookahead(model, loss, eta, gamma, optimizer)
    least = torch.tensor([0.0 if name.endswith("bias") else smallest for name in named], dtype=torch.float64)
    scales = _Scales(least, lr, clip)
    with untouched(model, "train"), sdpa_kernel(SDPBackend.MATH):
        supply = _endless(batches)
        for _ in range(steps):
            scales.step(*lookahead.slopes(dict(zip(named, scales.values, strict=True)), supply))
    found = dict(zip(named, scales.values.tolist(), strict=True))
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.mul_(found[name])
    return found


class _Lookahead:
    """How the scales should change, by the norm of the gradient or by the loss after one step."""

    def __init__(self, model: nn.Module, loss: Loss | None, eta: float, gamma: float, optimizer: str) -> None:
        self._model, self._loss = model, loss
        self._eta, self._gamma, self._sign = eta, gamma, optimizer == "adam"
        trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        double = any(p.dtype == torch.float64 for p in trained.values())
        self._dtype = torch.float64 if double else torch.float32
        self._initial = {name: p.to(self._dtype) for name, p in trained.items()}
        held = any(held_in(module) for module in model.modules())
        self._masks = {n: m.to(trained[n].device) for n, m in masks_of(model).items()} if held else {}

    def slopes(self, scales: Mapping[str, Tensor], supply: Iterator[Batch]) -> tuple[Tensor, bool]:
        """The slope of each scale [number of scales, float64, CPU], and whether the gradient was too large."""
        leaves = {n: a.to(self._initial[n].device, self._dtype).requires_grad_() for n, a in scales.items()}
        values = {n: leaves[n] * t if n in leaves else t.clone().requires_grad_() for n, t in self._initial.items()}
        first = next(supply)
        gradient = self._gradient(values, [first, next(supply)])
        norm = self._norm(gradient)
        too_large = norm.item() > self._gamma
        if too_large:
            objective = norm
        else:
            with torch.no_grad():
                steps = {n: g.sign() if self._sign else g / norm.clamp_min(1e-30) for n, g in gradient.items()}
            ahead = {n: t - self._eta * steps[n] if n in steps else t for n, t in values.items()}
            objective = self._mean_loss(ahead, [first, next(supply)]) / self._eta
        if not isfinite(objective.item()):
            raise Invalid("the loss or its gradient is not finite; allowed: initial weights where both are")
        if not objective.requires_grad:  # such as the gradient's norm where the loss is linear
            return torch.zeros(len(leaves), dtype=torch.float64), too_large
        slopes = torch.autograd.grad(objective, list(leaves.values()), allow_unused=True)
        return torch.tensor([0.0 if s is None else s.item() for s in slopes], dtype=torch.float64), too_large

    def _gradient(self, values: dict[str, Tensor], batches: list[Batch]) -> dict[str, Tensor]:
        loss = self._mean_loss(values, batches)
        if not loss.requires_grad:
            raise Invalid("the loss depends on no trained parameter; allowed: one that does")
        found = torch.autograd.grad(loss, list(values.values()), create_graph=True, allow_unused=True)
        named = {name: g for name, g in zip(values, found, strict=True) if g is not None}
        return {n: g * self._masks[n] if n in self._masks else g for n, g in named.items()}

    def _norm(self, gradient: Mapping[str, Tensor]) -> Tensor:
        parts = [g.abs().sum() if self._sign else g.square().sum() for g in gradient.values()]
        device = parts[0].device
        total = torch.stack([part.to(device) for part in parts]).sum()
        return total if self._sign else total.sqrt()

    def _mean_loss(self, values: dict[str, Tensor], batches: list[Batch]) -> Tensor:
        probe = Probe(self._model, values, self._dtype)
        losses = [loss_of(probe(b), b.to(device_of(self._model)), self._loss) for b in batches]
        return torch.stack(losses).mean()


@dataclass
class _Scales:
    """One positive number for each tensor, and Adam's moments of their slopes; index 1 is of too large gradients."""

    least: Tensor
    lr: float
    clip: float
    values: Tensor = field(init=False)
    counts: list[int] = field(init=False, default_factory=lambda: [0, 0])

    def __post_init__(self) -> None:
        self.values = torch.ones_like(self.least)
        self.first = torch.zeros(2, len(self.least), dtype=self.least.dtype)
        self.second = torch.zeros_like(self.least)

    def step(self, slopes: Tensor, too_large: bool) -> None:
        """Go down the slopes."""
        slopes = slopes.clamp(-self.clip, self.clip)
        self.counts[too_large] += 1
        self.first[int(too_large)].lerp_(slopes, 0.1)
        self.second.lerp_(slopes.square(), 0.001)
        mean = self.first[int(too_large)] / (1 - 0.9 ** self.counts[too_large])
        root = (self.second / (1 - 0.999 ** sum(self.counts))).sqrt()
        self.values = (self.values - self.lr * mean / (root + 1e-8)).maximum(self.least)


def _endless(batches: Iterable[Any]) -> Iterator[Batch]:
    """The batches over and over; an iterator's are kept for that."""
    if isinstance(batches, Iterator):
        yield from cycle(Batch.read(batch) for batch in batches)
    empty = False
    while not empty:
        empty = True
        for batch in batches:
            empty = False
            yield Batch.read(batch)
    raise Invalid("batches is empty; rescale_init needs at least one batch")


def _chosen(model: nn.Module, include: Globs | None, exclude: Globs | None) -> dict[str, nn.Parameter]:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}
    for option, globs in (("include", include), ("exclude", exclude)):
        for pattern in patterns_of(globs or ()):
            if not any(fnmatchcase(name, pattern) for name in named):
                raise Invalid(f"{option}={pattern!r} matches no trained parameter; {nearest(pattern, named)}")
    included = named if include is None else {n: p for n, p in named.items() if _matches(n, include)}
    chosen = {n: p for n, p in included.items() if not _matches(n, exclude or ())}
    if not chosen:
        raise Invalid(f"no parameter of this {type(model).__name__} is left to scale")
    return chosen


def _matches(name: str, globs: Globs) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns_of(globs))


def _check_options(steps: int, optimizer: str, **positive: float) -> None:
    check_count("steps", steps)
    if optimizer not in ("sgd", "adam"):
        raise Invalid(f"optimizer is {optimizer!r}; {nearest(str(optimizer), ('sgd', 'adam'))}")
    for name, value in positive.items():
        check_number(name, value, lambda v: 0 < v < float("inf"), "a number above 0")
