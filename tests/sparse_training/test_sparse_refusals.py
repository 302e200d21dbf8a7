"""What sparse training refuses, in one clear line, and with nothing changed."""

import pytest
import torch
from torch import nn

from prunus.core.apply import apply, masks_of, release
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.sparse_training import METHODS, SET, RigL, Static
from toy import MLP, ConvNet, build
from training import EVERY, made, take_step

EVERY_METHOD = list(METHODS)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize("name", EVERY_METHOD)
def test_an_optimizer_of_another_model(name):
    model, other = build(MLP), build(MLP)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(Invalid, match=r"optimizer does not hold 0\.weight"):
        made(name, model, sgd(other))
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    with pytest.raises(Invalid, match="holds no masks"):
        masks_of(model)


@pytest.mark.parametrize("name", EVERY_METHOD)
def test_a_step_before_any_gradient(name):
    model = build(MLP)
    method = made(name, model, sgd(model))
    with pytest.raises(Invalid, match="before any gradient"):
        method.step()
    assert method.steps == 0


@pytest.mark.parametrize("name", ["set", "rigl"])
def test_an_update_after_a_parameter_was_replaced(name):
    model = build(MLP)
    optimizer = sgd(model)
    method = made(name, model, optimizer, every=2)
    take_step(model, optimizer, method, 0)
    model[2].weight = nn.Parameter(model[2].weight.detach().clone())
    with pytest.raises(Invalid, match=r"2\.weight was replaced"):
        take_step(model, optimizer, method, 1)


@pytest.mark.parametrize("instead", [release, lambda model: apply(model, Masks.random(model, 0.5))])
def test_an_update_after_the_masks_were_taken_away(instead):
    model = build(MLP)
    optimizer = sgd(model)
    method = made("rigl", model, optimizer, every=2)
    take_step(model, optimizer, method, 0)
    instead(model)
    with pytest.raises(Invalid, match=r"the mask of 0\.weight was taken away or replaced"):
        take_step(model, optimizer, method, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"density": 0.0}, r"density is 0\.0"),
        ({"density": 1.5}, r"density is 1\.5"),
        ({"density": "x"}, "density is 'x'"),
        ({"density": None}, "density is None; allowed"),
        ({"density": 0.01}, r"density is 0\.01, which leaves none of the 48 weights of 0\.weight"),
        ({"power": "3"}, "power is '3'"),
        ({"scope": "erkk"}, "did you mean 'erk'"),
        ({"total_steps": 10}, "ends before it begins"),
        ({"pattern": "4"}, "pattern is '4'"),
        ({"pattern": "5:4"}, "pattern is '5:4'"),
        ({"pattern": "2:4", "density": 0.5}, r"0\.weight has 6 inputs, no multiple of 4; .* exclude='0\.weight'"),
        ({"pattern": "2:3", "exclude": ["2.*", "4.*"]}, r"density is 0\.3; allowed with pattern '2:3': 0\.666667"),
        ({"pattern": "fan-in", "density": 0.05}, "less than one of the 6 weights of each unit"),
        ({"include": "x.*"}, "matches no prunable parameter"),
    ],
)
def test_options(options, words):
    model = build(MLP)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(Invalid, match=words):
        RigL(model, sgd(model), **{"density": 0.3, "total_steps": 1000, **options})
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_start_masks():
    model = build(MLP)
    full = Masks.full(model)
    with pytest.raises(Invalid, match="allowed: one of the two"):
        Static(model, sgd(model), 0.3, start=full)
    with pytest.raises(Invalid, match=r"start has 'features\.0\.weight', which is no parameter"):
        Static(model, sgd(model), start=Masks.full(build(ConvNet)))
    with pytest.raises(Invalid, match=r"start has 0\.weight of shape \(2, 2\); allowed: \(8, 6\)"):
        Static(model, sgd(model), start=Masks({"0.weight": torch.ones(2, 2)}))
    with pytest.raises(Invalid, match=r"weights in the groups of 0\.weight"):
        Static(model, sgd(model), start=Masks.random(model, 0.5), pattern="fan-in")


def test_an_optimizer_that_asks_for_many_gradients():
    model = build(MLP)
    with pytest.raises(Invalid, match="optimizer is LBFGS"):
        RigL(model, torch.optim.LBFGS(model.parameters()), 0.3, total_steps=1000)


def test_a_copy_of_another_model():
    model = build(MLP)
    method = SET(model, sgd(model), 0.3, total_steps=1000)
    for copy in (build(ConvNet), model):
        with pytest.raises(Invalid, match=r"copy has no 0\.weight of shape \(8, 6\) for its own"):
            method.follow(copy)


def test_a_model_without_weights():
    model = nn.Sequential(nn.LayerNorm(3))
    with pytest.raises(Invalid, match="has no prunable weights"):
        Static(model, sgd(model), 0.3)


def test_what_is_no_model_and_no_optimizer():
    model = build(MLP)
    with pytest.raises(Invalid, match="model is of type SGD"):
        Static(sgd(model), model, 0.3)  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="optimizer is of type MLP"):
        Static(model, model, 0.3)  # type: ignore[arg-type]
    method = made("rigl", model, sgd(model))
    with pytest.raises(Invalid, match="the state is of type NoneType"):
        method.load_state_dict(None)
    with pytest.raises(Invalid, match="copy is of type NoneType"):
        method.follow(None)


def test_another_method_on_the_same_model_takes_over_and_the_first_says_so():
    model = build(MLP)
    optimizer = sgd(model)
    first = made("rigl", model, optimizer)
    second = made("set", model, optimizer)
    take_step(model, optimizer, second, 0)
    with pytest.raises(Invalid, match=r"the mask of 0\.weight was taken away or replaced: make a new RigL"):
        first.step()


def test_frozen_weights_are_left_alone():
    model = build(MLP)
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    for optimizer in (sgd(model), torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)):
        method = made("set", model, optimizer)
        assert "0.weight" not in method.masks
        assert method.masks.kept == round(0.3 * method.masks.total)
        for step in range(EVERY):
            take_step(model, optimizer, method, step)
        assert torch.equal(model[0].weight, before)
    with pytest.raises(Invalid, match=r"start has 0\.weight, which is frozen"):
        Static(model, sgd(model), start=Masks.full(model))


def test_a_weight_that_is_frozen_later_keeps_its_connections():
    model = build(MLP)
    optimizer = sgd(model)
    method = made("set", model, optimizer)
    before = method.masks
    model[0].weight.requires_grad_(False)
    for step in range(EVERY):
        take_step(model, optimizer, method, step)
    assert torch.equal(method.masks["0.weight"], before["0.weight"])
    assert method.masks != before


def test_a_pattern_with_a_density_of_its_own_needs_none():
    model = build(MLP)
    method = RigL(model, sgd(model), total_steps=1000, pattern="1:2", exclude="4.*")
    assert method.masks.density == 0.5
