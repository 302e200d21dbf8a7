"""Stop in the middle of the schedule and go on: the same masks, weights and moments, bit for bit."""

import json
from copy import deepcopy
from itertools import permutations

import pytest
import torch

from prunus.core.errors import Invalid
from prunus.sparse_training import METHODS
from toy import MLP, ConvNet, build
from training import OPTIMIZERS, STEPS, losses, made, moments_of, same_tensors, take_step, trained


def states(model, optimizer, method):
    """As a checkpoint would have them: copies, and what is no tensor through JSON."""
    state = method.state_dict()
    tensors = {name: value.clone() for name, value in state.items() if torch.is_tensor(value)}
    rest = json.loads(json.dumps({name: value for name, value in state.items() if not torch.is_tensor(value)}))
    return {
        "model": deepcopy(model.state_dict()),
        "optimizer": deepcopy(optimizer.state_dict()),
        "method": {**tensors, **rest},
    }


@pytest.mark.parametrize("order", list(permutations(["model", "optimizer", "method"])), ids="-".join)
@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("stop", [7, 14])  # step 15 is an update, so that 14 stops right before one
def test_it_goes_on_bit_for_bit_whatever_is_loaded_first(name, stop, order):
    whole, used, method = trained(name)
    saved = states(*trained(name, steps=stop))

    model = build(MLP, seed=9)
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    again = made(name, model, optimizer)
    for each in order:
        {"model": model, "optimizer": optimizer, "method": again}[each].load_state_dict(saved[each])
    assert again.steps == stop
    for step in range(stop, STEPS):
        take_step(model, optimizer, again, step)
    assert again.masks == method.masks
    assert again.updates == method.updates
    assert same_tensors(model.state_dict(), whole.state_dict())
    for own, other in zip(model.parameters(), whole.parameters(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(moments_of(optimizer, own), moments_of(used, other), strict=True))


@pytest.mark.parametrize(("name", "called"), [("static", "Static"), ("set", "SET"), ("rigl", "RigL")])
def test_weights_that_were_masked_away_before_are_noticed(name, called):
    saved = states(*trained(name, steps=7))
    model = build(MLP, seed=9)
    model.load_state_dict(saved["model"])
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    method = made(name, model, optimizer, seed=4)  # random masks: most of what was loaded is gone
    method.load_state_dict(saved["method"])
    losses(model, 7).backward()
    with pytest.raises(Invalid, match=f"load the model's state_dict after making {called}"):
        optimizer.step()


def test_a_moving_average_is_loaded_with_its_masks():
    model, optimizer, method = trained("rigl", steps=7)
    copy = deepcopy(model)
    method.follow(copy)
    average, saved = deepcopy(copy.state_dict()), states(model, optimizer, method)

    model = build(MLP, seed=9)
    again = made("rigl", model, OPTIMIZERS["momentum"](model.parameters()), seed=3)
    copy = deepcopy(model)
    again.follow(copy)
    copy.load_state_dict(average)
    again.load_state_dict(saved["method"])
    assert same_tensors(copy.state_dict(), average)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: made("set", m := build(MLP), OPTIMIZERS["sgd"](m.parameters())), "of the method 'set'"),
        (lambda: made("rigl", m := build(ConvNet), OPTIMIZERS["sgd"](m.parameters())), "of another model"),
    ],
)
def test_a_state_of_another_method_or_model_is_refused(other, words):
    model, _, method = trained("rigl", steps=7)
    masks, weights = method.masks, deepcopy(model.state_dict())
    with pytest.raises(Invalid, match=words):
        method.load_state_dict(other().state_dict())
    assert method.masks == masks
    assert same_tensors(model.state_dict(), weights)


@pytest.mark.parametrize("lost", ["method", "steps", "updates", "started", "active", "mask/0.weight"])
def test_a_state_that_lacks_something_is_refused(lost):
    _, _, method = trained("rigl", steps=7)
    state = {name: value for name, value in method.state_dict().items() if name != lost}
    masks, steps = method.masks, method.steps
    with pytest.raises(Invalid, match=lost.removeprefix("mask/")):
        method.load_state_dict(state)
    assert (method.masks, method.steps) == (masks, steps)
