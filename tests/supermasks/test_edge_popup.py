import copy

import pytest
import torch
from supermasking import learn, sgd
from torch import nn

from prunus.core.apply import masks_of
from prunus.core.schedules import cubic
from prunus.supermasks import EdgePopup, bake, scores, supermask, supermask_of
from toy import MLP, ConvNet, Residual, batch, build


@pytest.mark.parametrize("density", [0.1, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("size", [10, 1000])
def test_so_many_are_kept_and_they_are_those_with_the_largest_absolute_scores(size, density):
    model = nn.Linear(size, 1)
    supermask(model, EdgePopup(density=density))
    order = scores(model)[0].detach().abs().flatten().argsort(descending=True, stable=True)
    kept = masks_of(model)["weight"].flatten()
    assert int(kept.count_nonzero()) == round(density * size)
    assert kept[order[: round(density * size)]].all()


def test_scores_start_uniform_between_one_over_the_root_of_the_inputs():
    model = nn.Sequential(nn.Conv2d(16, 64, 3), nn.Linear(400, 50))
    supermask(model, EdgePopup(density=0.5))
    for score, inputs in zip(scores(model), (144, 400), strict=True):
        bound = inputs**-0.5
        assert score.abs().max() <= bound
        deviation = bound / 3**0.5
        assert abs(score.mean()) < 4 * deviation / score.numel() ** 0.5
        assert torch.isclose(score.std(), torch.tensor(deviation), rtol=0.05)


def test_permuted_scores_permute_the_mask():
    model = build(MLP)
    supermask(model, EdgePopup(density=0.3))
    before, order = masks_of(model), {}
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, layer in supermask_of(model).layers.items():
            order[name] = torch.randperm(layer.scores.numel(), generator=draws)
            layer.scores.copy_(layer.scores.flatten()[order[name]].view_as(layer.scores))
    for name, mask in masks_of(model).items():
        assert torch.equal(mask.flatten(), before[name].flatten()[order[name]])


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("factor", [0.5, 4.0, 3.0])
def test_the_size_of_a_layers_scores_changes_nothing(factor, signed):
    model = build(ConvNet).eval()
    supermask(model, EdgePopup(density=0.3, signed=signed))
    x = batch(ConvNet)[0]
    before = model(x)
    with torch.no_grad():
        scores(model)[1].mul_(factor)
    assert torch.equal(model(x), before)


def test_scope_says_whether_the_size_of_a_layers_scores_matters():
    model = build(ConvNet)
    supermask(model, EdgePopup(density=0.3, scope="global"))
    with torch.no_grad():
        scores(model)[1].mul_(1e-3)
    counts = [int(mask.count_nonzero()) for mask in masks_of(model).values()]
    assert sum(counts) == round(0.3 * (72 + 216 + 18))
    assert counts[1] <= 3  # all others come first


def test_a_density_of_one_is_the_untrained_network_and_scores_learn_in_vain():
    model = build(ConvNet)
    plain = copy.deepcopy(model)
    supermask(model, EdgePopup(density=1))
    before = [score.detach().clone() for score in scores(model)]
    learn(model, ConvNet, sgd(model), steps=3)
    assert all((score != old).any() for score, old in zip(scores(model), before, strict=True))
    for turn in range(3):  # the statistics of the norms follow the data in both
        plain(batch(ConvNet, seed=turn)[0])
    x = batch(ConvNet)[0]
    assert torch.equal(model.eval()(x), plain.eval()(x))


def test_signed_ranks_the_scores_themselves():
    model = nn.Linear(6, 1)
    supermask(model, EdgePopup(density=0.5, signed=True))
    with torch.no_grad():
        scores(model)[0].copy_(torch.tensor([[-9.0, 1.0, 2.0, -8.0, 3.0, 0.5]]))
    assert masks_of(model)["weight"].tolist() == [[False, True, True, False, True, False]]
    other = nn.Linear(6, 1)
    supermask(other, EdgePopup(density=0.5))
    with torch.no_grad():
        scores(other)[0].copy_(scores(model)[0])
    assert masks_of(other)["weight"].tolist() == [[True, False, False, True, True, False]]


@pytest.mark.parametrize("scaled", [False, True])
def test_signed_constant_weights_take_three_values(scaled):
    model = build(Residual)
    supermask(model, EdgePopup(density=0.25), weights="kaiming-constant", scaled=scaled, seed=3)
    learn(model, Residual, sgd(model), steps=2)
    for name, inputs in {"stem": 18, "grouped": 18, "point": 8, "head": 8}.items():
        size = (2 / inputs) ** 0.5 * (2.0 if scaled else 1.0)  # 1 / √(1/4)
        values = model.get_submodule(name).weight.unique()
        assert torch.allclose(values, torch.tensor([-size, 0.0, size]))


def test_a_norm_without_affine_parameters_is_the_frozen_one_that_starts_at_one_and_nought():
    def made(affine):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(
                nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4, affine=affine), nn.Flatten(), nn.Linear(64, 3)
            )
        supermask(model, EdgePopup(density=0.5))
        learn(model, ConvNet, sgd(model), steps=4)
        return model

    with_affine, without = made(True), made(False)
    assert torch.equal(with_affine[1].weight, torch.ones(4))
    assert not with_affine[1].bias.any()
    assert masks_of(with_affine) == masks_of(without)
    x = batch(ConvNet)[0]
    assert torch.allclose(with_affine(x), without(x), atol=1e-6)


def test_a_swap_lowers_the_loss_of_the_batch_it_learned_from():
    # an edge that overtakes another in one step has the smaller w · g, so the swap goes downhill
    model = build(MLP).double()
    supermask(model, EdgePopup(density=0.5), exclude=["0.*", "2.*"])
    x, y = batch(MLP, size=64, dtype=torch.float64)
    optimizer = torch.optim.SGD(scores(model), lr=0.5)
    swaps = 0
    for _ in range(150):
        optimizer.zero_grad()
        before = masks_of(model)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if masks_of(model) != before:
            swaps += 1
            assert slope(model, before, x, y) < 0
    assert swaps


def slope(model, before, x, y):
    """The change of the loss along the line from the masked weights before to those now."""
    layer = supermask_of(model).layers["4.weight"]
    there = (layer.weight * before["4.weight"]).detach().requires_grad_()
    hidden = nn.Sequential(*list(model)[:4])(x).detach()
    loss = nn.functional.cross_entropy(nn.functional.linear(hidden, there, model[4].bias), y)
    (gradient,) = torch.autograd.grad(loss, there)
    return float((gradient * (model[4].weight.detach() - there.detach())).sum())


def test_the_density_falls_by_the_schedule_and_then_stays():
    model = build(ConvNet)
    supermask(model, EdgePopup(density=0.2, scope="global", schedule=cubic, steps=5, start=2))
    optimizer = sgd(model)
    found = []
    for turn in range(9):
        found.append(sum(int(mask.count_nonzero()) for mask in masks_of(model).values()))
        learn(model, ConvNet, optimizer, steps=1, seed=turn)
    total = 72 + 216 + 18
    expected = [1.0, 1.0, *(cubic(step / 5, 0.2) for step in range(6)), 0.2]
    assert found == [round(density * total) for density in expected]


def test_what_is_found_beats_what_it_started_from():
    model = build(MLP)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        x = torch.randn(256, 6)
    y = (x[:, 0] * x[:, 1] > 0).long()  # no linear rule does it
    supermask(model, EdgePopup(density=0.5), weights="kaiming-normal", seed=1)
    with torch.no_grad():
        start = nn.functional.cross_entropy(model(x), y)
    optimizer = torch.optim.SGD(scores(model), lr=0.1, momentum=0.9)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    bake(model)
    with torch.no_grad():
        assert nn.functional.cross_entropy(model(x), y) < 0.8 * start
