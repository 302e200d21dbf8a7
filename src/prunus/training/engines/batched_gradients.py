"""Loss and gradients of one batch for each of many lanes: by hand, by vmap, or one lane after the other.

Each way is a function from images float32 [lanes, batch, C, H, W] and labels int64 [lanes, batch] to the mean
cross-entropy and the number of correct predictions of every lane, [lanes] each. It leaves the gradients in the bank's
and, where the network keeps statistics, the new statistics in the bank's `rest`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from prunus.training.engines.batched_state import Bank
from prunus.training.precision import computing_in

Gradients = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def by_hand(model: nn.Sequential, bank: Bank, precision: str) -> Gradients:
    """Fully-connected networks: batched matrix products, without autograd; `model` says how the layers are called."""
    names = [f"{name}." for name, module in model.named_children() if isinstance(module, nn.Linear)]
    weights, gradients = bank.layout.views(bank.weights), bank.layout.views(bank.gradients)
    biased = [name for name in names if f"{name}bias" in weights]
    low = torch.bfloat16 if precision == "bfloat16" else bank.weights.dtype

    def product(entering: Tensor, name: str) -> Tensor:
        weight = weights[f"{name}weight"].to(low).transpose(1, 2)
        if name in biased:
            return torch.baddbmm(weights[f"{name}bias"].to(low)[:, None], entering, weight)
        return torch.bmm(entering, weight)

    @torch.no_grad()
    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        inputs = [images.flatten(2).to(low)]
        for name in names[:-1]:
            inputs.append(product(inputs[-1], name).relu_())
        logits = product(inputs[-1], names[-1]).to(bank.weights.dtype)
        log_probabilities = F.log_softmax(logits, 2)
        loss = -log_probabilities.gather(2, labels[:, :, None]).mean((1, 2))
        correct = (logits.argmax(2) == labels).sum(1)
        # d loss / d logits = (softmax − one-hot) / batch
        upstream = log_probabilities.exp_()
        upstream.scatter_add_(2, labels[:, :, None], upstream.new_full((), -1.0).expand(*labels.shape, 1))
        upstream = upstream.div_(labels.shape[1]).to(low)
        for name, entering in zip(reversed(names), reversed(inputs), strict=True):
            gradients[f"{name}weight"].copy_(torch.bmm(upstream.transpose(1, 2), entering))
            if name in biased:
                gradients[f"{name}bias"].copy_(upstream.sum(1))
            if name != names[0]:
                upstream = torch.bmm(upstream, weights[f"{name}weight"].to(low))
                # ReLU's backward: zero where what entered is not above 0
                upstream = torch.ops.aten.threshold_backward(upstream, entering, 0)
        return loss, correct

    return step


def grouped(model: nn.Module, bank: Bank, precision: str) -> Gradients:
    """Any network: autograd under vmap, which makes products batched and convolutions grouped ones."""
    weights, gradients = bank.layout.views(bank.weights), bank.layout.views(bank.gradients)

    def loss_of(weights: dict[str, Tensor], rest: dict[str, Tensor], images: Tensor, labels: Tensor) -> tuple:
        loss, logits = _loss(model, {**weights, **rest}, images, labels, precision)
        return loss, (logits.argmax(1) == labels).sum()

    all_lanes = vmap(grad_and_value(loss_of, has_aux=True))

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        found, (loss, correct) = all_lanes(weights, bank.rest, images, labels)
        for name, gradient in found.items():
            gradients[name].copy_(gradient)
        return loss, correct

    return step


def apart(model: nn.Module, bank: Bank, precision: str) -> Gradients:
    """Any network: one lane after the other by autograd."""
    weights, gradients = bank.layout.views(bank.weights), bank.layout.views(bank.gradients)

    def lane(row: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        leaves = {name: view[row].detach().requires_grad_() for name, view in weights.items()}
        rest = {name: tensor[row] for name, tensor in bank.rest.items()}
        with torch.enable_grad():
            loss, logits = _loss(model, {**leaves, **rest}, images, labels, precision)
            found = torch.autograd.grad(loss, list(leaves.values()))
        for name, gradient in zip(leaves, found, strict=True):
            gradients[name][row].copy_(gradient)
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        each = [lane(row, images[row], labels[row]) for row in range(len(bank))]
        losses, corrects = zip(*each, strict=True)
        return torch.stack(losses), torch.stack(corrects)

    return step


def logits_of(model: nn.Module, precision: str) -> Callable[[dict[str, Tensor], dict[str, Tensor], Tensor], Tensor]:
    """A function from parameters, the rest, and images [N, C, H, W] for all lanes to logits [lanes, N, classes]."""

    def logits(weights: dict[str, Tensor], rest: dict[str, Tensor], images: Tensor) -> Tensor:
        with computing_in(precision, images.device):
            return functional_call(model, {**weights, **rest}, (images,))

    return vmap(logits, in_dims=(0, 0, None))


def _loss(
    model: nn.Module, tensors: dict[str, Tensor], images: Tensor, labels: Tensor, precision: str
) -> tuple[Tensor, Tensor]:
    with computing_in(precision, images.device):
        logits = functional_call(model, tensors, (images,))
        return F.cross_entropy(logits, labels), logits
