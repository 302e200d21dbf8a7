"""Networks with supermasks, and what is compared of them."""

import copy

import torch
from chosen import Chosen
from torch import nn

from prunus.core.files import read_tensors
from prunus.core.seeds import generator
from prunus.models import build
from prunus.supermasks import supermask

SHAPE = (1, 28, 28)


def built(name="lenet-5", seed=0, **options):
    return build(name, SHAPE, 10, generator=generator(seed, "a test"), **options)


def own(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def masked(model, method=None, weights="kaiming-normal", **options):
    """A model with a supermask, after a few steps of its norms."""
    shape = (6,) if next(model.parameters()).shape[1] == 6 else SHAPE  # own() or built()
    supermask(model, method or Chosen(), weights=weights, seed=5, **options)
    model.train()(torch.randn(4, *shape, generator=generator(1)))
    return model.eval()


def logits(model, inputs=None):
    if inputs is None:
        inputs = torch.randn(5, *SHAPE, generator=generator(2))
    with torch.no_grad():
        return model.eval()(inputs)


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_state(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def same_file(one, other):
    (tensors, metadata), (others, other_metadata) = read_tensors(one), read_tensors(other)
    assert metadata == other_metadata
    assert same_state(tensors, others)


def trained():
    """A network with statistics of its norms."""
    model = own(seed=3)
    model.train()(torch.randn(32, 6))
    return model


def on(backbone, classes=5, ternary=False):
    """The backbone for another task: a new head, and a mask over the rest."""
    model = copy.deepcopy(backbone)
    model[3] = nn.Linear(16, classes)
    supermask(model, Chosen(ternary=ternary), train="3.*")
    with torch.no_grad():
        model[3].weight.add_(1)
    return model


def with_room(backbone, classes=5):
    model = copy.deepcopy(backbone)
    model[3] = nn.Linear(16, classes)
    return model
