"""Bad input: one line that names what is wrong, and nothing is changed."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import prunus
from prunus.core.apply import apply, masks_of
from prunus.core.errors import Invalid
from prunus.supermasks import (
    Bernoulli,
    Biprop,
    EdgePopup,
    GemMiner,
    Movement,
    NeuralWirings,
    Piggyback,
    bake,
    scores,
    supermask,
    supermask_of,
)
from toy import MLP, ConvNet, build

HALF = EdgePopup(density=0.5)


def refused(model, method, said, **options):
    """Refuses, and leaves names, values, classes and what is trained as they were."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    classes = [type(module) for module in model.modules()]
    with pytest.raises(Invalid, match=said) as caught:
        supermask(model, method, **options)
    assert "\n" not in str(caught.value)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value.nan_to_num(), state[name].nan_to_num()) for name, value in model.state_dict().items())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trained
    assert [type(module) for module in model.modules()] == classes
    with pytest.raises(Invalid, match="has no supermask"):
        supermask_of(model)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"include": "body.*"}, r"include='body\.\*' matches no prunable parameter; .*features\.0\.weight"),
        ({"exclude": "tail"}, "exclude='tail' matches no parameter"),
        ({"train": "tail.*"}, r"train='tail\.\*' matches no parameter of the model; "),
        ({"train": ["head.*", "tail.*"]}, r"train='tail\.\*'"),
        ({"include": "head.*", "exclude": "head.*"}, "ConvNet has no maskable weight"),
        ({"train": "*"}, "ConvNet has no maskable weight"),
        ({"include": "features.1.num_batches_tracked"}, "matches no prunable parameter"),
        ({"weights": "kaiming-nomal"}, "weights is 'kaiming-nomal'; did you mean 'kaiming-normal'"),
        ({"scaled": True}, "scaled is True with the model's own weights"),
        ({"weights": "kaiming-normal", "seed": -1}, "seed is -1"),
        ({"seed": "one"}, "seed is 'one'; allowed: a whole number"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": True}, "seed is True"),
        ({"weights": "kaiming-normal", "include": "features.1.weight"}, "no weight that can be drawn from a seed"),
    ],
)
def test_options_that_do_not_fit_the_model(options, said):
    refused(build(ConvNet), HALF, said, **options)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.ReLU(), "ReLU has no maskable weight"),
        (nn.Sequential(nn.BatchNorm1d(4), nn.Embedding(3, 4)), "Sequential has no maskable weight"),
        (nn.Linear(3, 3, dtype=torch.complex64), r"weight is of type torch\.complex64; masks need floating point"),
    ],
)
def test_models_with_nothing_to_mask(model, said):
    refused(model, HALF, said)


def test_models_that_are_not_ready():
    with torch.device("meta"):
        hollow = nn.Linear(3, 3)
    with pytest.raises(Invalid, match="weight is on the meta device"):
        supermask(hollow, HALF)
    with pytest.raises(Invalid, match=r"0\.weight is not initialised yet"):
        supermask(nn.Sequential(nn.LazyLinear(3)), HALF)
    with pytest.raises(Invalid, match="behind a parametrization"):
        supermask(weight_norm(nn.Linear(3, 3)), HALF)
    with pytest.raises(Invalid, match="model is of type dict"):
        supermask({}, HALF)


@pytest.mark.parametrize("method", [EdgePopup, EdgePopup(density=0.5).density, "edge-popup", None])
def test_a_method_is_made_with_its_options(method):
    refused(build(MLP), method, "method is (EdgePopup itself|of type .*); allowed: a method made with its options")


@pytest.mark.parametrize("kind", [EdgePopup, Biprop, NeuralWirings, Movement])
def test_a_density_that_keeps_no_weight_of_a_layer(kind):
    refused(build(MLP), kind(density=0.02), r"density is 0\.02 .*, which keeps none of the 21 weights of 4\.weight")
    refused(build(MLP), kind(density=0.001, scope="global"), "keeps none of the 125 weights of all layers")
    supermask(build(MLP), kind(density=0.02, scope="global"))  # two weights in all


def test_a_ramp_that_ends_where_a_layer_keeps_nothing():
    method = EdgePopup(density=0.02, schedule="linear", steps=100)
    refused(build(MLP), method, "keeps none of the 21 weights")


def test_flags_that_keep_no_weight():
    refused(build(MLP), GemMiner(density=0.001, steps=9, every=2), "which keeps none of 125 weights")


def test_scaling_needs_a_density():
    for method in (Bernoulli(), Piggyback()):
        refused(build(MLP), method, "scaled is True, and .* has no density", weights="glorot-normal", scaled=True)


def test_weights_that_are_their_own_scores_and_cannot_be_ranked():
    model = build(MLP)
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    refused(model, NeuralWirings(density=0.5), r"2\.weight has NaN in it")


def test_a_model_has_one_supermask_and_no_other_masks():
    model = build(MLP)
    supermask(model, HALF)
    before = masks_of(model)
    for other in (HALF, Bernoulli()):
        with pytest.raises(Invalid, match=r"has a supermask already: bake\(model\)"):
            supermask(model, other)
    with pytest.raises(Invalid, match="behind a parametrization"):
        apply(model, before)
    assert masks_of(model) == before
    bake(model)
    apply(model, before)
    with pytest.raises(Invalid, match=r"holds masks: release\(model\)"):
        supermask(model, HALF)
    assert masks_of(model) == before


@pytest.mark.parametrize("ask", [bake, scores, supermask_of, GemMiner.flags])
def test_a_plain_model_has_none(ask):
    with pytest.raises(Invalid, match=r"this MLP has no supermask: supermask\(model, method\) gives it one"):
        ask(build(MLP))


def test_bake_twice():
    model = build(MLP)
    supermask(model, HALF)
    bake(model)
    with pytest.raises(Invalid, match="has no supermask"):
        bake(model)


@pytest.mark.parametrize("wrong", [0, 1.5, -0.1, True, "half", None, float("nan")])
@pytest.mark.parametrize("kind", [EdgePopup, Biprop, GemMiner, NeuralWirings, Movement])
def test_densities(kind, wrong):
    with pytest.raises(Invalid, match=r"^density is .*; allowed: a number in \(0, 1\]"):
        kind(density=wrong)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scope": "globl"}, "scope is 'globl'; did you mean 'global'"),
        ({"scope": "lamp"}, "scope is 'lamp'"),
        ({"schedule": "cubik", "steps": 3}, "schedule is 'cubik'; did you mean 'cubic'"),
        ({"schedule": "cubic"}, "schedule is 'cubic' with steps None; they go together"),
        ({"steps": 3}, "schedule is None with steps 3; they go together"),
        ({"schedule": "cubic", "steps": 0}, "steps is 0; allowed: a whole number from 1"),
        ({"schedule": "cubic", "steps": 1.5}, "steps is 1.5"),
        ({"schedule": "cubic", "steps": 3, "start": -1}, "start is -1; allowed: a whole number of steps"),
    ],
)
@pytest.mark.parametrize("kind", [EdgePopup, Biprop, NeuralWirings, Movement])
def test_scopes_and_schedules(kind, options, said):
    with pytest.raises(Invalid, match=said):
        kind(density=0.5, **options)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Bernoulli(draw="rounded"), "draw is 'rounded'; allowed: 'sample' or 'round'"),
        (lambda: Piggyback(threshold=0.02), r"threshold is 0\.02 and first 0\.01; allowed: 0 ≤ threshold < first"),
        (lambda: Piggyback(threshold=-0.1), "allowed: 0 ≤ threshold < first"),
        (lambda: Piggyback(balance="layers"), "balance is 'layers'; allowed: 'layer', 'entry' or None"),
        (lambda: GemMiner(density=0.5), "steps is None; allowed: a whole number from 1"),
        (lambda: GemMiner(density=0.5, steps=10), "every is None"),
        (lambda: GemMiner(density=0.5, steps=10, every=10), "every is 10 with steps 10; allowed: fewer than steps"),
    ],
)
def test_options_of_single_methods(make, said):
    with pytest.raises(Invalid, match=said):
        make()


def test_flags_are_of_one_method_only():
    model = build(MLP)
    supermask(model, HALF)
    with pytest.raises(Invalid, match="the supermask is of EdgePopup; only GemMiner has flags"):
        GemMiner.flags(model)


def test_an_empty_layer_is_no_reason_to_stop():
    model = nn.Sequential(nn.Linear(3, 4), nn.Flatten())
    model.add_module("empty", nn.Linear(4, 2))
    model.empty.weight = nn.Parameter(torch.empty(0, 4))
    supermask(model, EdgePopup(density=0.5, scope="global"))
    assert masks_of(model)["0.weight"].count_nonzero() == 6


def test_a_state_of_a_plain_model_does_not_fit():
    model, plain = build(MLP), build(MLP)
    supermask(model, HALF)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="scores"):
        model.load_state_dict(plain.state_dict())
    assert sum(layer.kept for layer in masks_of(model).layers) == 24 + 28 + 10
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: prunus.Bernoulli(first="x"), "first is 'x'"),
        (lambda: prunus.Bernoulli(first=float("nan")), "first is nan"),
        (lambda: prunus.Bernoulli(rescale="no"), "rescale is 'no'"),
        (lambda: prunus.Piggyback(first=float("inf")), "first is inf"),
        (lambda: prunus.Piggyback(threshold="a"), "threshold is 'a'"),
        (lambda: prunus.Piggyback(ternary="no"), "ternary is 'no'"),
        (lambda: prunus.EdgePopup(signed=1), "signed is 1"),
    ],
)
def test_options_of_another_type_are_refused(make, said):
    with pytest.raises(prunus.Invalid, match=said):
        make()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"scaled": "yes", "weights": "kaiming-normal"}, "scaled is 'yes'"),
        ({"include": 3}, "a pattern is 3"),
        ({"train": None}, "a pattern is None"),
    ],
)
def test_arguments_of_another_type_change_nothing(options, said):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3))
    before = model[0].weight.clone()
    with pytest.raises(prunus.Invalid, match=said):
        prunus.supermask(model, prunus.EdgePopup(0.5), **options)
    assert torch.equal(model[0].weight, before)
    assert model[0].weight.requires_grad
