"""Counting what a network is made of, without its weights."""

import torch
from torch import nn

from prunus.core.params import prunable
from prunus.core.seeds import generator
from prunus.models import MODELS, build

CIFAR, TINY, IMAGENET = (3, 32, 32), (3, 64, 64), (3, 224, 224)


def hollow(name, shape, classes, width=1.0):
    """The network without memory for its weights, in evaluation mode."""
    with torch.device("meta"):
        return MODELS[name](shape, classes, width).eval()


def fresh(name, shape, classes=10, width=1.0, seed=0):
    return build(name, shape, classes, width=width, generator=generator(seed, "initialisation"))


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def count_prunable(model):
    return sum(weight.numel() for weight in prunable(model).values())


def output_shapes(model, shape, *kinds):
    """(module, shape of its output) in the order in which modules of the kinds run on one image."""
    seen = []
    hooks = [
        module.register_forward_hook(lambda module, _, output: seen.append((module, tuple(output.shape[1:]))))
        for module in model.modules()
        if isinstance(module, kinds)
    ]
    model(torch.zeros(1, *shape, device=next(model.parameters()).device))
    for hook in hooks:
        hook.remove()
    return seen


def multiply_adds(model, shape):
    """Of all convolutions and linear layers, for one image."""
    seen = output_shapes(model, shape, nn.Conv2d, nn.Linear)
    return sum(module.weight.numel() * output[1:].numel() for module, output in [(m, torch.Size(s)) for m, s in seen])


def assert_drawn(weight, variance):
    """Mean 0 and the variance, within five standard errors of normal draws."""
    values, number = weight.detach().double().flatten(), weight.numel()
    assert abs(values.mean()) < 5 * (variance / number) ** 0.5
    assert abs(values.square().mean() / variance - 1) < 5 * (2 / number) ** 0.5
