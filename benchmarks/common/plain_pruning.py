"""Pruning at initialization as one writes it down from the papers: concatenate, find the threshold, mask, repeat."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call

Masked = dict[str, Tensor]


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of linear and convolution layers by name."""
    return {n: p for n, p in model.named_parameters() if n.endswith("weight") and p.dim() > 1}


def synflow(model: nn.Module, shape: tuple[int, ...], density: float, rounds: int = 100) -> Masked:
    """SynFlow with an exponential schedule; absolute values in place, and the signs put back."""
    model.eval()
    signs = {n: t.sign() for n, t in model.state_dict().items()}
    for tensor in model.state_dict().values():
        tensor.abs_()
    weights = weights_of(model)
    masks = {n: torch.ones_like(w) for n, w in weights.items()}
    one = torch.ones(1, *shape, dtype=next(iter(weights.values())).dtype)
    for done in range(1, rounds + 1):
        model.zero_grad()
        outputs = functional_call(model, {n: w * masks[n] for n, w in weights.items()}, (one,))
        outputs.sum().backward()
        scores = {n: (masks[n] * w.grad * w).detach().abs() for n, w in weights.items() if w.grad is not None}
        masks = thresholded(scores, masks, density ** (done / rounds))
    for n, tensor in model.state_dict().items():
        tensor.mul_(signs[n])
    model.zero_grad()
    return masks


def snip(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], density: float) -> Masked:
    """SNIP: the gradient of the masks."""
    model.eval()
    weights = weights_of(model)
    masks = {n: torch.ones_like(w, requires_grad=True) for n, w in weights.items()}
    for inputs, targets in batches:
        outputs = functional_call(model, {n: w.detach() * masks[n] for n, w in weights.items()}, (inputs,))
        nn.functional.cross_entropy(outputs, targets).backward()
    scores = {n: m.grad.abs() for n, m in masks.items() if m.grad is not None}
    return thresholded(scores, {n: m.detach() for n, m in masks.items()}, density)


def grasp(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], density: float) -> Masked:
    """GraSP: the gradient first, then its product with the Hessian, with a temperature of 200."""
    model.eval()
    weights = weights_of(model)
    leaves = list(weights.values())
    total = [torch.zeros_like(w) for w in leaves]
    for inputs, targets in batches:
        loss = nn.functional.cross_entropy(model(inputs) / 200, targets)
        for into, gradient in zip(total, torch.autograd.grad(loss, leaves), strict=True):
            into += gradient
    model.zero_grad()
    for inputs, targets in batches:
        loss = nn.functional.cross_entropy(model(inputs) / 200, targets)
        gradients = torch.autograd.grad(loss, leaves, create_graph=True)
        sum((a.detach() * b).sum() for a, b in zip(total, gradients, strict=True)).backward()  # type: ignore[union-attr]
    scores = {n: w.detach() * w.grad for n, w in weights.items() if w.grad is not None}
    model.zero_grad()
    return thresholded(scores, {n: torch.ones_like(w) for n, w in weights.items()}, density)


def magnitude(model: nn.Module, density: float) -> Masked:
    """The absolute values."""
    weights = weights_of(model)
    return thresholded(
        {n: w.detach().abs() for n, w in weights.items()}, {n: torch.ones_like(w) for n, w in weights.items()}, density
    )


def random(model: nn.Module, density: float) -> Masked:
    """Uniform draws in 64 bits, in the order of the parameters."""
    draws = torch.Generator().manual_seed(0)
    weights = weights_of(model)
    scores = {n: torch.rand(w.shape, generator=draws, dtype=torch.float64) for n, w in weights.items()}
    return thresholded(scores, {n: torch.ones_like(w) for n, w in weights.items()}, density)


def thresholded(scores: Masked, masks: Masked, density: float) -> Masked:
    """The largest scores of all layers together; what is masked is not chosen; ties by position."""
    joined = torch.cat([scores[n].flatten() for n in masks])
    there = torch.cat([m.flatten() for m in masks.values()])
    joined[there == 0] = -torch.inf
    keep = round(density * len(joined))
    cut = joined.kthvalue(len(joined) - keep + 1).values
    chosen = (joined > cut).float()
    ties = (joined == cut).nonzero().squeeze(1)
    chosen[ties[: keep - int(chosen.sum(dtype=torch.float64))]] = 1.0
    parts = chosen.split([m.numel() for m in masks.values()])
    return {n: part.view(m.shape) for (n, m), part in zip(masks.items(), parts, strict=True)}
