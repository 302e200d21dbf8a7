from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.training.gradients import gradients_of


def mlp(*sizes, bias=True):
    layers = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


def conv():
    return nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)).double()


def seen(model):
    return gradients_of(model).__qualname__.split(".")[0]


@pytest.mark.parametrize("model", [mlp(9, 4), mlp(9, 7, 4), mlp(9, 7, 5, 4, bias=False), conv()])
def test_gradients_are_those_of_the_mean_cross_entropy(model):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 1, 3, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (6,), generator=generator)
    gradients = gradients_of(model)
    gradients(images.flip(0), labels)  # nothing of an earlier batch may stay
    loss, correct = gradients(images, labels)

    logits = model(images)
    expected = F.cross_entropy(logits, labels)
    torch.testing.assert_close(loss, expected.detach())
    assert int(correct) == int((logits.argmax(1) == labels).sum())
    for parameter, gradient in zip(
        model.parameters(), torch.autograd.grad(expected, list(model.parameters())), strict=True
    ):
        torch.testing.assert_close(parameter.grad, gradient)


def test_only_plain_chains_of_linear_layers_go_by_hand():
    assert seen(mlp(9, 7, 4)) == "_by_hand"
    shared = nn.Linear(4, 4)
    hooked = mlp(9, 7, 4)
    hooked[1].register_forward_hook(lambda *_: None)
    frozen = mlp(9, 7, 4)
    frozen[1].weight.requires_grad_(False)
    others = [
        conv(),
        hooked,
        frozen,
        nn.Sequential(shared, nn.ReLU(), shared),
        nn.Sequential(nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 4)),
        nn.Sequential(nn.Linear(9, 4), nn.ReLU()),
        nn.Sequential(nn.Linear(9, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 4)),
        nn.Linear(9, 4),
    ]
    assert [seen(model) for model in others] == ["_by_autograd"] * len(others)


@pytest.mark.parametrize("model", [mlp(9, 7, 4), conv()])
def test_gradients_are_those_of_a_loss_that_is_given(model):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 1, 3, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (6,), generator=generator)

    def squares(logits, labels):
        return (logits.softmax(1) - F.one_hot(labels, 4)).square().sum(1).mean()

    gradients = gradients_of(model, loss=squares)
    gradients(images.flip(0), labels)
    loss, correct = gradients(images, labels)

    logits = model(images)
    expected = squares(logits, labels)
    torch.testing.assert_close(loss, expected.detach())
    assert int(correct) == int((logits.argmax(1) == labels).sum())
    for parameter, gradient in zip(
        model.parameters(), torch.autograd.grad(expected, list(model.parameters())), strict=True
    ):
        torch.testing.assert_close(parameter.grad, gradient)
