"""Loss and gradients of one batch: by autograd for any model, by hand for fully-connected ones.

A small network spends most of a step in autograd's bookkeeping. For a chain of linear layers and ReLUs the
gradients are three lines of matrix products, written here into the parameters' own `.grad`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.training.precision import computing_in

#: From images float32 [B, C, H, W] and labels int64 [B] to the mean loss and the number of correct predictions, both
#: tensors without dimensions.
Gradients = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
#: From logits [B, C] and labels int64 [B] to their mean loss.
Loss = Callable[[Tensor, Tensor], Tensor]


def gradients_of(model: nn.Module, precision: str = "float32", loss: Loss | None = None) -> Gradients:
    """A function that sets the gradients of the mean loss in every parameter of `model`.

    Args:
        model: from images to logits.
        precision: what it is computed in, as in `Recipe.precision`. Default: "float32".
        loss: of a batch. Default: cross-entropy.
    """
    layers = fully_connected(model) if precision == "float32" and loss is None else None
    return _by_hand(layers) if layers else _by_autograd(model, precision, loss or F.cross_entropy)


def _by_autograd(model: nn.Module, precision: str, loss_of: Loss) -> Gradients:
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradients(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        for parameter in parameters:
            parameter.grad = None
        with computing_in(precision, images.device):
            logits = model(images)
            loss = loss_of(logits, labels)
        loss.backward()
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    return gradients


def _by_hand(layers: list[nn.Linear]) -> Gradients:
    for parameter in (p for layer in layers for p in layer.parameters()):
        parameter.grad = torch.zeros_like(parameter)

    @torch.no_grad()
    def gradients(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        inputs = [images.flatten(1)]
        for layer in layers[:-1]:
            inputs.append(F.linear(inputs[-1], layer.weight, layer.bias).relu_())
        logits = F.linear(inputs[-1], layers[-1].weight, layers[-1].bias)
        log_probabilities = F.log_softmax(logits, 1)
        loss = F.nll_loss(log_probabilities, labels)
        correct = (logits.argmax(1) == labels).sum()
        # d loss / d logits = (softmax − one-hot) / batch
        upstream = log_probabilities.exp_()
        upstream.scatter_(1, labels[:, None], -1.0, reduce="add").div_(len(labels))
        for layer, entering in zip(reversed(layers), reversed(inputs), strict=True):
            torch.mm(upstream.t(), entering, out=layer.weight.grad)
            if layer.bias is not None:
                torch.sum(upstream, 0, out=layer.bias.grad)
            if layer is not layers[0]:
                # ReLU's backward: zero where what entered is not above 0
                upstream = torch.ops.aten.threshold_backward(upstream.mm(layer.weight), entering, 0)
        return loss, correct

    return gradients


def fully_connected(model: nn.Module) -> list[nn.Linear] | None:
    """The linear layers of a `Sequential` of flatten, linear and ReLU in turn; None for any other model."""
    if type(model) is not nn.Sequential:
        return None
    layers = [module for module in model if type(module) is not nn.Flatten]
    linear, between = layers[::2], layers[1::2]
    plain = all(not m._forward_hooks and not m._forward_pre_hooks and not m._backward_hooks for m in model)
    flat = all(m.start_dim == 1 and m.end_dim == -1 for m in model if isinstance(m, nn.Flatten))
    chain = all(type(m) is nn.Linear for m in linear) and all(type(m) is nn.ReLU for m in between)
    trained = all(p.requires_grad and not p._post_accumulate_grad_hooks for p in model.parameters())
    if not (layers and len(layers) % 2 and plain and flat and chain and trained):
        return None
    flatten_first = all(type(m) is not nn.Flatten or i == 0 for i, m in enumerate(model))
    once = len({id(p) for m in linear for p in m.parameters()}) == sum(len(list(m.parameters())) for m in linear)
    return [m for m in linear if isinstance(m, nn.Linear)] if flatten_first and once else None
