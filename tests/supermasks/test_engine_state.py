"""State: state_dicts, copies, and the plain module that `bake` leaves."""

import copy
import io

import pytest
import torch
from supermasking import IDS, ONE_EACH, WAYS, learn, output, sgd
from torch import nn
from torch.nn.utils import parametrize

import prunus
from prunus.core.apply import apply, masks_of
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.supermasks import (
    Bernoulli,
    Biprop,
    EdgePopup,
    Movement,
    NeuralWirings,
    Piggyback,
    bake,
    scores,
    supermask,
    supermask_of,
)
from toy import MODELS, ConvNet, Tied, Transformer, batch, build

each_way = pytest.mark.parametrize("make", WAYS, ids=IDS)


def trained(make, kind=ConvNet, steps=3):
    model = build(kind)
    supermask(model, make())
    learn(model, kind, sgd(model), steps)
    return model


def saved(model):
    """A state_dict that went through a file."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("assign", [False, True])
@each_way
def test_a_state_dict_in_another_model_goes_on_as_the_first_one_does(make, assign):
    model = trained(make)
    fresh = build(ConvNet, seed=7)
    supermask(fresh, make(), seed=7)
    fresh.load_state_dict(saved(model), assign=assign)
    assert supermask_of(fresh).step_count == 3
    assert masks_of(fresh) == masks_of(model)
    for turn in range(3):
        x, _ = batch(ConvNet, seed=turn)
        assert torch.equal(output(model, x), output(fresh, x))
        for each in (model, fresh):
            learn(each, ConvNet, torch.optim.SGD(scores(each), lr=0.1), steps=1, seed=turn)
        assert masks_of(fresh) == masks_of(model)
    assert supermask_of(fresh).step_count == 6


@each_way
def test_a_deepcopy_is_a_model_of_its_own(make):
    model = trained(make)
    twin = copy.deepcopy(model)
    x = batch(ConvNet)[0]
    assert torch.equal(output(twin, x), output(model, x))
    assert supermask_of(twin) is not supermask_of(model)
    ours, theirs = ({id(p) for p in each.parameters()} for each in (model, twin))
    assert not ours & theirs
    before = copy.deepcopy(model.state_dict())
    learn(twin, ConvNet, sgd(twin), steps=2)
    assert (supermask_of(model).step_count, supermask_of(twin).step_count) == (3, 5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    learn(model, ConvNet, sgd(model), steps=2)  # they had the same batches
    assert masks_of(model) == masks_of(twin)


@each_way
def test_the_bake_of_a_copy_leaves_the_first_one_learning(make):
    model = trained(make)
    x, twin = batch(ConvNet)[0], copy.deepcopy(model)
    before, classes = output(model, x), [type(module) for module in model.modules()]
    norms = {name: value.clone() for name, value in model.named_buffers()}
    bake(twin)
    assert [type(module) for module in model.modules()] == classes
    for name, value in model.named_buffers():
        value.copy_(norms[name])
    assert torch.equal(output(model, x), before)
    learn(model, ConvNet, sgd(model), steps=1)
    assert supermask_of(model).step_count == 4


@pytest.mark.parametrize("kind", MODELS)
@each_way
def test_bake_gives_the_plain_module_back_with_masked_weights_in_it(kind, make):
    plain = build(kind)
    next(reversed(list(plain.parameters()))).requires_grad_(False)
    model = copy.deepcopy(plain)
    supermask(model, make())
    learn(model, kind, sgd(model), steps=2)
    model.eval()
    x, masks = batch(kind)[0], masks_of(model)
    method = supermask_of(model).method
    deterministic = not isinstance(method, Bernoulli) or method.draw == "round"
    with torch.no_grad():  # so that attention takes the same way before and after
        before = model(x)
        assert bake(model) == masks
        after = model(x)
    assert [type(module) for module in model.modules()] == [type(module) for module in plain.modules()]
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in plain.parameters()]
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    if deterministic:
        assert torch.equal(after, before)
    for name, mask in masks.items():
        assert not model.get_parameter(name)[~mask].any()
    with pytest.raises(Invalid, match="has no supermask"):
        bake(model)
    apply(model, masks)  # and its masks may be held from now on
    assert masks_of(model) == masks


@pytest.mark.parametrize("make", ONE_EACH)
def test_a_baked_model_trains_as_any_other_and_its_supermask_no_longer_follows(make):
    model = build(ConvNet)
    held = supermask(model, make())
    bake(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = copy.deepcopy(dict(model.named_parameters()))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    optimizer.step()  # even these are nobody's business now
    assert held.step_count == 0
    assert before.keys() == dict(model.named_parameters()).keys()


def test_bake_with_masks_of_ones_own_puts_those_weights_in():
    model = build(ConvNet)
    plain = copy.deepcopy(model.state_dict())
    supermask(model, EdgePopup(density=0.5))
    masks = Masks({name: torch.ones_like(mask) for name, mask in masks_of(model).items()})
    assert bake(model, masks) == masks
    assert all(torch.equal(value, plain[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda masks: {**masks, "none.weight": masks["head.weight"]}, "'none.weight' is only in masks"),
        (lambda masks: {"head.weight": masks["head.weight"]}, "is only in the supermask"),
        (
            lambda masks: {**masks, "head.weight": masks["head.weight"].T},
            r"the mask of head\.weight has shape \(6, 3\)",
        ),
        (lambda _: [1], "masks is of type list"),
    ],
)
def test_bake_refuses_masks_of_other_weights_and_changes_nothing(given, said):
    model = build(ConvNet)
    supermask(model, EdgePopup(density=0.5))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(Invalid, match=said):
        bake(model, given(masks_of(model)))
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert not model.head.bias.requires_grad


def test_bake_of_a_part_is_refused_and_of_two_supermasks_at_once_too():
    model = build(ConvNet)
    supermask(model, EdgePopup(density=0.5))
    with pytest.raises(Invalid, match="bake it whole"):
        bake(model.features)
    bake(model)
    for part in (model.features, model.more):
        supermask(part, EdgePopup(density=0.5))
    with pytest.raises(Invalid, match="2 supermasks"):
        bake(model)
    with pytest.raises(Invalid, match="2 supermasks"):
        scores(model)
    assert list(masks_of(model)) == ["features.0.weight", "more.0.weight"]
    for part in (model.features, model.more):
        bake(part)
    assert model.head.weight.requires_grad


@pytest.mark.parametrize(
    "wrap", [lambda model: nn.Sequential(model), lambda model: torch.compile(model, backend="eager")]
)
def test_a_model_that_was_wrapped_since_is_baked_as_it_was(wrap):
    model = build(ConvNet)
    trained_before = [p.requires_grad for p in model.parameters()]
    names = list(model.state_dict())
    supermask(model, EdgePopup(density=0.5))
    bake(wrap(model))
    assert list(model.state_dict()) == names
    assert [p.requires_grad for p in model.parameters()] == trained_before


def test_bake_of_a_part_that_was_given_a_supermask_within_a_model():
    model = build(Transformer)
    supermask(model.layer, EdgePopup(density=0.5))
    assert all(name.startswith("layer.") for name in masks_of(model))
    bake(model)
    assert all(p.requires_grad for p in model.parameters())


def test_a_tied_weight_is_tied_again():
    model = trained(lambda: EdgePopup(density=0.5), Tied)
    bake(model)
    assert model.first.weight is model.second.weight


def test_a_layer_alone_is_a_model():
    layer = nn.Linear(6, 4)
    supermask(layer, EdgePopup(density=0.5))
    assert list(masks_of(layer)) == ["weight"]
    assert int(bake(layer)["weight"].count_nonzero()) == 12
    assert type(layer) is nn.Linear
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_another_parametrization_of_the_layer_stays():
    class Doubled(nn.Module):
        def forward(self, x):
            return 2 * x

    model = build(ConvNet)
    parametrize.register_parametrization(model.head, "bias", Doubled())
    supermask(model, EdgePopup(density=0.5))
    x = batch(ConvNet)[0]
    before = model.eval()(x)
    bake(model)
    assert torch.equal(model(x), before)
    assert parametrize.is_parametrized(model.head, "bias")
    assert not parametrize.is_parametrized(model.head, "weight")


def test_norms_go_on_in_training_once_their_statistics_are_no_longer_kept():
    model = build(ConvNet)
    supermask(model, Piggyback())
    model(batch(ConvNet)[0])
    bake(model)
    mean = model.features[1].running_mean.clone()
    model(batch(ConvNet)[0])
    assert not torch.equal(model.features[1].running_mean, mean)


@pytest.mark.parametrize("method", [NeuralWirings(density=0.5), Movement(density=0.5), Biprop(density=0.5)])
def test_a_state_that_is_loaded_sets_the_density_back(method):
    way = {"schedule": "linear", "steps": 4}
    ramped = type(method)(density=0.25, **way)
    model = build(ConvNet)
    supermask(model, ramped)
    start = saved(model)
    dense = masks_of(model)
    learn(model, ConvNet, torch.optim.SGD(scores(model), lr=0.1), steps=4)
    assert masks_of(model).density < 0.3
    model.load_state_dict(start)
    assert supermask_of(model).step_count == 0
    assert masks_of(model) == dense
    assert dense.density == 1
    assert int(model.head.weight.count_nonzero()) == model.head.weight.numel()


def test_steps_of_what_is_no_optimizer_are_counted_by_hand():
    model = torch.nn.Sequential(torch.nn.Linear(10, 10))
    learned = prunus.supermask(model, prunus.EdgePopup(0.1, schedule="linear", steps=9))
    assert prunus.masks_of(model).kept == 100
    for kept in range(90, 0, -10):
        learned.step()
        assert prunus.masks_of(model).kept == kept
