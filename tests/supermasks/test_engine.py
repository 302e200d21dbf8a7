"""What every method keeps to while it learns: what is frozen, how much is kept, when masks are made."""

import copy

import pytest
import torch
from supermasking import IDS, ONE_EACH, OPTIMIZERS, WAYS, learn, others, output, same, sgd, weights
from torch import nn

from prunus.core.allocation import allot
from prunus.core.apply import masks_of
from prunus.core.params import prunable
from prunus.supermasks import Biprop, EdgePopup, NeuralWirings, scores, supermask, supermask_of
from prunus.supermasks.ranked import Ranked
from toy import MODELS, ConvNet, Tied, Transformer, batch, build

each_way = pytest.mark.parametrize("make", WAYS, ids=IDS)


# What is trained and what is not


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@each_way
def test_what_is_frozen_stays_as_it_is_to_the_last_bit(make, optimizer):
    model = build(ConvNet)
    plain, method = copy.deepcopy(dict(model.named_parameters())), make()
    supermask(model, method)
    assert same(weights(model), {name: plain[name].detach() for name in weights(model)})
    frozen, start = others(model), [score.detach().clone() for score in scores(model)]
    learn(model, ConvNet, optimizer(scores(model)), steps=10)
    assert same(others(model), frozen)
    assert all(not torch.equal(score, first) for score, first in zip(scores(model), start, strict=True))


@each_way
def test_an_optimizer_of_all_parameters_trains_only_scores_even_where_gradients_were_left_over(make):
    model = build(ConvNet)
    x, y = batch(ConvNet)
    nn.functional.cross_entropy(model(x), y).backward()
    supermask(model, make())
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    if supermask_of(model).method.learns_weights:
        assert trained >= {id(parameter) for parameter in scores(model)}
        return
    assert trained == {id(parameter) for parameter in scores(model)}
    frozen = others(model)
    OPTIMIZERS["sgd"](model.parameters()).step()
    assert same(others(model), frozen)


@each_way
def test_there_is_one_score_for_each_weight_or_the_weight_itself(make):
    model = build(ConvNet)
    plain = prunable(model)
    supermask(model, make())
    shapes = [tuple(score.shape) for score in scores(model)]
    assert shapes == [tuple(weight.shape) for weight in plain.values()]
    assert all(score.is_leaf and score.requires_grad for score in scores(model))
    assert len({id(score) for score in scores(model)}) == len(shapes)


def test_a_head_to_train_is_neither_masked_nor_frozen():
    model = build(ConvNet)
    supermask(model, EdgePopup(density=0.5), train="head.*")
    assert [n for n, p in model.named_parameters() if p.requires_grad and "parametrizations" not in n] == [
        "head.weight",
        "head.bias",
    ]
    assert list(masks_of(model)) == ["features.0.weight", "more.0.weight"]
    optimizer = torch.optim.SGD([*scores(model), *model.head.parameters()], lr=0.1)
    before = model.head.weight.detach().clone()
    learn(model, ConvNet, optimizer, steps=1)
    assert (model.head.weight != before).all()


def test_patterns_choose_what_is_masked_and_all_the_rest_is_frozen():
    model = build(ConvNet)
    supermask(model, EdgePopup(density=0.5), include=["features.*", "head.weight"], exclude="head.*")
    assert list(masks_of(model)) == ["features.0.weight"]
    assert not model.more[0].weight.requires_grad
    assert not model.head.weight.requires_grad


# How much is kept


def expected_counts(method, sizes, step):
    density = method.density_at(step)
    if method.scope == "layerwise":
        return {name: round(density * weight.numel()) for name, weight in sizes.items()}
    total = round(density * sum(weight.numel() for weight in sizes.values()))
    return total if method.scope == "global" else allot(method.scope, sizes, total)


def kept(model, method):
    counts = {name: int(mask.count_nonzero()) for name, mask in masks_of(model).items()}
    for name, count in counts.items():  # what the forward pass has is what masks_of says
        module = model.get_submodule(name.rpartition(".")[0])
        assert int(getattr(module, name.rpartition(".")[2]).count_nonzero()) == count
    return sum(counts.values()) if method.scope == "global" else counts


@pytest.mark.parametrize("kind", MODELS)
@each_way
def test_so_many_are_kept_after_every_step_and_no_other_number(kind, make):
    model, method = build(kind), make()
    if not isinstance(method, Ranked):
        return
    sizes = dict(prunable(model))
    supermask(model, method)
    optimizer = sgd(model)
    for step in range(8):
        assert supermask_of(model).step_count == step
        assert kept(model, method) == expected_counts(method, sizes, step)
        learn(model, kind, optimizer, steps=1, seed=step)


@pytest.mark.parametrize("density", [0.1, 0.3, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("scope", ["layerwise", "global", "uniform", "uniform-first-last", "er", "erk"])
def test_counts_at_any_density_and_scope(density, scope):
    if (density, scope) == (0.1, "uniform-first-last"):
        pytest.skip("its first and last layers alone are denser than that")
    model = build(ConvNet)
    method = EdgePopup(density=density, scope=scope)
    sizes = dict(prunable(model))
    supermask(model, method)
    assert kept(model, method) == expected_counts(method, sizes, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_counts_are_exact_where_most_scores_tie(dtype):
    model = build(ConvNet).to(dtype)
    supermask(model, EdgePopup(density=0.3))
    with torch.no_grad():
        for score in scores(model):
            score.copy_(score.sign())  # ±1 only
    for name, mask in masks_of(model).items():
        assert int(mask.count_nonzero()) == round(0.3 * mask.numel())
        first = torch.arange(mask.numel()) < round(0.3 * mask.numel())
        assert torch.equal(mask.view(-1), first), name  # ties go by position


# Names, ties, and when masks are made


@pytest.mark.parametrize("kind", MODELS)
@each_way
def test_masks_have_the_names_and_the_order_of_the_plain_model(kind, make):
    model = build(kind)
    names = list(prunable(model))
    supermask(model, make())
    masks = masks_of(model)
    assert list(masks) == list(supermask_of(model).layers)
    assert sorted(masks) == sorted(names)
    assert output(model, batch(kind)[0]).isfinite().all()


def test_a_tied_weight_has_one_mask_in_both_places():
    model = build(Tied)
    supermask(model, EdgePopup(density=0.5))
    assert list(masks_of(model)) == ["first.weight", "third.weight", "head.weight"]
    assert torch.equal(model.first.weight, model.second.weight)
    assert len(scores(model)) == 3


def test_masks_are_made_at_steps_and_not_in_forward_passes():
    model = build(ConvNet).eval()
    supermask(model, EdgePopup(density=0.5))
    layers = supermask_of(model).layers.values()
    versions = [layer.effective._version for layer in layers]
    with torch.no_grad():
        model(batch(ConvNet)[0])
    model.train()(batch(ConvNet)[0]).sum().backward()
    assert [layer.effective._version for layer in layers] == versions
    optimizer = sgd(model)
    optimizer.step()
    after = [layer.effective._version for layer in layers]
    assert all(new > old for new, old in zip(after, versions, strict=True))


@pytest.mark.parametrize("scope", ["layerwise", "global"])
def test_scores_written_by_hand_are_noticed(scope):
    model = build(ConvNet).eval()
    supermask(model, EdgePopup(density=0.5, scope=scope))
    x = batch(ConvNet)[0]
    before = model(x)
    with torch.no_grad():
        for score in scores(model):
            score.copy_(score.flip(0) * 3)
    assert not torch.equal(model(x), before)
    masks = masks_of(model)
    for name, layer in supermask_of(model).layers.items():
        assert torch.equal(layer.effective != 0, masks[name])
    supermask_of(model).layers["head.weight"].weight.neg_()
    assert torch.equal(model.head.weight != 0, masks["head.weight"])
    assert torch.equal(model.head.weight, (supermask_of(model).layers["head.weight"].weight * masks["head.weight"]))


def test_the_first_scores_depend_on_the_seed_and_the_name_alone():
    def first(seed, skipped=()):
        model = build(Transformer)
        supermask(model, EdgePopup(density=0.5), seed=seed, exclude=skipped)
        return {name: layer.scores.detach() for name, layer in supermask_of(model).layers.items()}

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        here = first(3)
        assert torch.equal(torch.get_rng_state(), before)  # torch's own generator is left alone
    assert same(here, first(3))
    fewer = first(3, ["layer.linear1.weight"])
    assert same(fewer, {name: here[name] for name in fewer})
    assert all(not torch.equal(a, b) for a, b in zip(here.values(), first(4).values(), strict=True))


@pytest.mark.parametrize("make", ONE_EACH)
def test_two_models_share_a_method_and_nothing_else(make):
    method = make()
    one, two = build(ConvNet), build(ConvNet)
    supermask(one, method)
    supermask(two, method)
    before = copy.deepcopy(two.state_dict())
    learn(one, ConvNet, sgd(one), steps=2)
    after = two.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert (supermask_of(one).step_count, supermask_of(two).step_count) == (2, 0)


@pytest.mark.parametrize("method", [EdgePopup(density=0.5), Biprop(density=0.5), NeuralWirings(density=0.5)])
def test_nan_in_scores_is_told_with_the_name_of_the_layer(method):
    model = build(ConvNet)
    supermask(model, method)
    with torch.no_grad():
        scores(model)[1][0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"^more\.0\.weight: .*NaN"):
        model(batch(ConvNet)[0])
