import copy
from itertools import pairwise
from math import ceil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from supermasking import learn, sgd
from torch import nn

from prunus.core.apply import masks_of
from prunus.supermasks import GemMiner, bake, scores, supermask, supermask_of
from toy import MLP, ConvNet, batch, build, step

TOTAL = 72 + 216 + 18  # weights of ConvNet


def flags(model):
    return {name: layer.flags.clone() for name, layer in supermask_of(model).layers.items()}


def values_of(model):
    return {name: layer.scores.detach().clone() for name, layer in supermask_of(model).layers.items()}


def count(masks):
    return sum(int(mask.count_nonzero()) for mask in masks.values())


@given(st.floats(0.001, 1, exclude_max=True), st.integers(2, 500), st.integers(1, 100), st.integers(1, 10**7))
def test_the_ladder_falls_from_all_to_the_density_by_equal_ratios(density, steps, every, total):
    if every >= steps:
        return
    method = GemMiner(density=density, steps=steps, every=every)
    assert method.events == (steps - 1) // every
    ladder = [method.flagged_after(event, total) for event in range(method.events + 1)]
    assert ladder[0] == total
    assert ladder[-1] == round(density * total)
    assert ladder == sorted(ladder, reverse=True)
    ratio = density ** (1 / method.events)
    assert all(abs(after - before * ratio) <= 1 for before, after in pairwise(ladder))


def test_the_events_of_the_paper():
    # E = 150 epochs, T = 5: 29 events, a fraction 0.1360 each for 1.44 %, 0.1622 for 0.59 %, 0.1073 for 3.72 %
    for density, fraction in {0.0144: 0.1360, 0.0059: 0.1622, 0.0372: 0.1073}.items():
        method = GemMiner(density=density, steps=150, every=5)
        assert method.events == 29
        total = 10**8
        assert abs(1 - method.flagged_after(1, total) / total - fraction) < 5e-5


@pytest.mark.parametrize(("density", "steps", "every"), [(0.1, 13, 3), (0.02, 12, 1), (0.5, 10, 9)])
def test_flags_fall_at_events_by_exact_numbers_and_never_come_back(density, steps, every):
    model, method = build(ConvNet), GemMiner(density=density, steps=steps, every=every)
    supermask(model, method)
    optimizer = sgd(model)
    for turn in range(1, steps + 2 * every):
        before, learned = flags(model), values_of(model)
        learn(model, ConvNet, optimizer, steps=1, seed=turn)
        after, values = flags(model), values_of(model)
        assert any(not torch.equal(values[name], learned[name]) for name in values)
        assert all(not (after[name] & ~before[name]).any() for name in after)
        event = min(turn // every, method.events)
        assert count(after) == method.flagged_after(event, TOTAL)
        if count(after) < count(before):  # the lowest of all layers together lost theirs
            lost = torch.cat([values[name][before[name] & ~after[name]] for name in values])
            held = torch.cat([values[name][after[name]] for name in values])
            assert lost.max() <= held.min()
        assert all((value >= 0).all() and (value <= 1).all() for value in values.values())
        for name, mask in masks_of(model).items():
            assert torch.equal(mask, (values[name] > 0.5) & after[name])
    assert count(flags(model)) == round(density * TOTAL)


def test_many_that_tie_at_nought_lose_only_so_many_flags():
    model = nn.Linear(1000, 1, bias=False)
    supermask(model, GemMiner(density=0.81, steps=3, every=1))  # two events of a tenth each
    with torch.no_grad():
        score = scores(model)[0]
        score.fill_(0.9)[:, 300:600] = 0
    score.grad = torch.zeros_like(score)
    torch.optim.SGD([score], lr=0.1).step()
    lost = ~supermask_of(model).layers["weight"].flags.flatten()
    assert int(lost.count_nonzero()) == 100
    assert lost[500:600].all()  # ties go by position: the first stay


def test_scores_start_uniform_and_half_is_off():
    model = nn.Linear(400, 400)
    supermask(model, GemMiner(density=1))
    score = scores(model)[0]
    assert score.min() >= 0
    assert score.max() <= 1
    assert abs(score.mean() - 0.5) < 4 * (1 / 12) ** 0.5 / 400
    assert abs(masks_of(model).density - 0.5) < 4 * 0.5 / 400
    with torch.no_grad():
        score.fill_(0.5)
    assert masks_of(model).density == 0
    assert not model.weight.any()


def test_without_events_it_is_a_thresholded_supermask():
    model = build(ConvNet)
    supermask(model, GemMiner(density=1))
    optimizer = sgd(model)
    learn(model, ConvNet, optimizer, steps=5)
    assert count(flags(model)) == TOTAL
    for name, layer in supermask_of(model).layers.items():
        assert torch.equal(masks_of(model)[name], layer.scores > 0.5)


def test_scores_without_a_flag_learn_nothing_from_the_loss():
    model = build(ConvNet)
    supermask(model, GemMiner(density=0.1, steps=5, every=1))
    optimizer = torch.optim.SGD(scores(model), lr=0.1)
    learn(model, ConvNet, optimizer, steps=4)
    x, y = batch(ConvNet)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    for layer in supermask_of(model).layers.values():
        assert not layer.scores.grad[~layer.flags].any()


def test_a_huge_penalty_empties_layers_and_stops_nothing():
    model, method = build(MLP), GemMiner(density=0.1, steps=11, every=2)
    supermask(model, method)
    optimizer = torch.optim.SGD(scores(model), lr=0.1, weight_decay=9)
    for turn in range(12):
        step(model, optimizer, batch(MLP, seed=turn))
    assert masks_of(model).density == 0
    assert not any(bool(model[layer].weight.any()) for layer in (0, 2, 4))
    assert count(flags(model)) == round(0.1 * 125)
    found = bake(model, GemMiner.flags(model))  # which revives them
    assert found.kept == round(0.1 * 125)


def test_what_is_flagged_is_baked_to_the_exact_count_over_the_first_weights():
    model = build(ConvNet)
    plain = copy.deepcopy(dict(model.named_parameters()))
    supermask(model, GemMiner(density=0.15, steps=9, every=2))
    learn(model, ConvNet, sgd(model), steps=9)
    learned, flagged = masks_of(model), GemMiner.flags(model)
    assert all((learned[name] <= flagged[name]).all() for name in learned)
    assert bake(model, flagged) == flagged
    assert flagged.kept == round(0.15 * TOTAL)
    for name, mask in flagged.items():
        assert torch.equal(model.get_parameter(name), plain[name] * mask)


def test_the_sanity_check_drops_the_highest():
    model, method = build(ConvNet), GemMiner(density=0.5, steps=2, every=1, lowest=False)
    supermask(model, method)
    start = torch.cat([score.detach().flatten() for score in scores(model)])
    for score in scores(model):
        score.grad = torch.zeros_like(score)
    torch.optim.SGD(scores(model), lr=0.1).step()
    kept = torch.cat([layer.flags.flatten() for layer in supermask_of(model).layers.values()])
    assert int(kept.count_nonzero()) == ceil(TOTAL / 2)
    assert start[kept].max() < start[~kept].min()


def test_a_penalty_is_the_weight_decay_of_the_optimizer_at_twice_the_rate():
    one, two = (build(MLP).double() for _ in range(2))
    for model in (one, two):
        supermask(model, GemMiner(density=1))
    x, y = batch(MLP, dtype=torch.float64)
    step(one, torch.optim.SGD(scores(one), lr=0.1, weight_decay=2 * 0.01), (x, y))
    optimizer = torch.optim.SGD(scores(two), lr=0.1)
    penalty = 0.01 * sum(score.square().sum() for score in scores(two))
    (nn.functional.cross_entropy(two(x), y) + penalty).backward()
    optimizer.step()
    assert all(torch.allclose(mine, theirs) for mine, theirs in zip(scores(one), scores(two), strict=True))
