import copy

import pytest
import torch
from supermasking import OPTIMIZERS, learn, sgd
from torch import nn

from prunus.core.apply import masks_of
from prunus.supermasks import NeuralWirings, bake, scores, supermask, supermask_of
from toy import MODELS, ConvNet, batch, build, step


@pytest.mark.parametrize("scope", ["layerwise", "global"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("kind", MODELS)
def test_with_all_weights_kept_it_is_dense_training_bit_for_bit(kind, optimizer, scope):
    dense, wired = build(kind), build(kind)
    supermask(wired, NeuralWirings(density=1, scope=scope))
    by = {each: optimizer(each.parameters()) for each in (dense, wired)}
    for turn in range(5):
        for each in (dense, wired):
            step(each, by[each], batch(kind, seed=turn))
    bake(wired)
    assert list(wired.state_dict()) == list(dense.state_dict())
    assert all(torch.equal(value, dense.state_dict()[key]) for key, value in wired.state_dict().items())


def test_the_weights_are_the_scores_and_everything_is_trained():
    model = build(ConvNet)
    plain = dict(model.named_parameters())
    before = {name: p.requires_grad for name, p in plain.items()}
    supermask(model, NeuralWirings(density=0.5))
    assert [id(score) for score in scores(model)] == [
        id(plain[name]) for name in ("features.0.weight", "more.0.weight", "head.weight")
    ]
    assert all(p.requires_grad for p in plain.values())
    assert all(before.values())
    assert not any("scores" in name for name in model.state_dict())


def test_an_optimizer_made_before_serves_as_well_as_one_made_after():
    early, late = build(ConvNet), build(ConvNet)
    first = OPTIMIZERS["sgd"](early.parameters())
    for each in (early, late):
        supermask(each, NeuralWirings(density=0.4))
    second = OPTIMIZERS["sgd"](late.parameters())
    for turn in range(4):
        step(early, first, batch(ConvNet, seed=turn))
        step(late, second, batch(ConvNet, seed=turn))
    assert masks_of(early) == masks_of(late)
    assert supermask_of(early).step_count == 4


def test_absent_edges_move_as_the_dense_layer_would_at_the_masked_weights():
    model = build(ConvNet)
    supermask(model, NeuralWirings(density=0.3))
    masks, twin = masks_of(model), build(ConvNet)
    with torch.no_grad():
        for name, mask in masks.items():
            twin.get_parameter(name).mul_(mask)
    before = {name: layer.weight.detach().clone() for name, layer in supermask_of(model).layers.items()}
    for each in (model, twin):
        step(each, torch.optim.SGD(each.parameters(), lr=0.1), batch(ConvNet))
    for name, layer in supermask_of(model).layers.items():
        moved = layer.weight - before[name]
        expected = twin.get_parameter(name) - before[name] * masks[name]
        assert torch.allclose(moved, expected, atol=1e-6)
        assert moved[~masks[name]].any()


def test_where_absent_edges_do_not_move_it_is_training_with_a_fixed_mask():
    fixed, wired = (build(ConvNet).double() for _ in range(2))
    supermask(wired, NeuralWirings(density=0.5))
    masks = masks_of(wired)
    with torch.no_grad():
        for name, mask in masks.items():
            fixed.get_parameter(name).mul_(mask)
    by = {each: torch.optim.SGD(each.parameters(), lr=1e-5) for each in (fixed, wired)}
    for turn in range(5):
        for each, optimizer in by.items():
            x, y = batch(ConvNet, seed=turn, dtype=torch.float64)
            optimizer.zero_grad()
            nn.functional.cross_entropy(each(x), y).backward()
            for name, mask in masks.items():
                held = fixed.get_parameter(name) if each is fixed else supermask_of(wired).layers[name].weight
                held.grad.mul_(mask)
            optimizer.step()
    assert masks_of(wired) == masks  # such small steps let no kept weight fall behind
    bake(wired)
    for name, value in wired.named_parameters():
        assert torch.allclose(value, fixed.get_parameter(name), atol=1e-14), name


def test_a_teacher_that_looks_at_few_inputs_is_found_though_none_of_them_is_there_at_first():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(400, 20)
        model = nn.Linear(20, 1, bias=False)
    support = [3, 8, 14, 19]
    y = x[:, support] @ torch.tensor([1.0, -1.5, 0.7, 2.0])
    with torch.no_grad():
        model.weight.fill_(0.1)
        model.weight[0, support] = 0.01
    supermask(model, NeuralWirings(density=0.2))
    assert not masks_of(model)["weight"][0, support].any()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (model(x).squeeze(1) - y).square().mean().backward()
        optimizer.step()
    assert masks_of(model)["weight"][0].nonzero().flatten().tolist() == support
    bake(model)
    assert torch.allclose(model.weight[0, support], torch.tensor([1.0, -1.5, 0.7, 2.0]), atol=1e-3)
    assert model.weight.count_nonzero() == 4


def test_fewer_edges_are_swapped_as_the_rate_decays():
    model = build(ConvNet)
    supermask(model, NeuralWirings(density=0.3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    swapped = []
    for turn in range(40):
        optimizer.param_groups[0]["lr"] = 0.5 * 0.8**turn
        before = masks_of(model)
        step(model, optimizer, batch(ConvNet, seed=turn))
        after = masks_of(model)
        swapped.append(sum(int((after[name] ^ before[name]).count_nonzero()) for name in before))
    assert sum(swapped[:10]) > sum(swapped[10:20]) >= sum(swapped[20:30]) >= sum(swapped[30:])


def test_the_classifier_and_first_layer_stay_dense_where_patterns_say_so():
    model = build(ConvNet)
    supermask(model, NeuralWirings(density=0.3), include="more.*")
    learn(model, ConvNet, sgd(model), steps=2)
    assert list(masks_of(model)) == ["more.0.weight"]
    assert model.head.weight.requires_grad


def test_weight_decay_acts_on_absent_edges_too():
    model = build(ConvNet)
    supermask(model, NeuralWirings(density=0.3))
    layer = supermask_of(model).layers["head.weight"]
    before, absent = copy.deepcopy(layer.weight.detach()), ~masks_of(model)["head.weight"]
    layer.weight.grad = torch.zeros_like(layer.weight)
    torch.optim.SGD(scores(model), lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(layer.weight[absent], before[absent] * 0.95)
