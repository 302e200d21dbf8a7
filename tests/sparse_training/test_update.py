"""One update of RigL and of SET against the same written out: which weights go and come, their values, the moments."""

from math import cos, floor, pi

import pytest
import torch
from torch import nn

from prunus.core.seeds import generator
from prunus.sparse_training import SET, RigL
from prunus.sparse_training.layer import random_positions
from toy import MLP, ConvNet, batch, build
from training import OPTIMIZERS, losses, moments_of, take_step

EVERY, TOTAL = 4, 40


def expected_update(weight, active, gradient, fraction):
    """By the words of the paper, one weight at a time: the kept and the grown ones, as sets of positions."""
    w, g = weight.reshape(-1).tolist(), gradient.reshape(-1).tolist()
    there = [i for i, kept in enumerate(active.reshape(-1).tolist()) if kept]
    k = floor(fraction * len(there))
    kept = set(sorted(there, key=lambda i: (-abs(w[i]), i))[: len(there) - k])
    candidates = [i for i in range(len(w)) if i not in kept]
    grown = set(sorted(candidates, key=lambda i: (-abs(g[i]), i))[:k])
    return kept, grown


def dense_gradients(model, step, kind):
    """The gradient of a twin of the model that holds no masks, at the same weights."""
    twin = build(kind)
    twin.load_state_dict(model.state_dict())
    losses(twin, step, kind=kind).backward()
    return {name: p.grad for name, p in twin.named_parameters()}


@pytest.mark.parametrize("kind", [MLP, ConvNet])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_a_rigl_update_is_the_one_of_the_paper(kind, optimizer):
    model = build(kind)
    used = OPTIMIZERS[optimizer](model.parameters())
    rigl = RigL(model, used, 0.4, total_steps=TOTAL, every=EVERY)
    for step in range(3 * EVERY - 1):
        take_step(model, used, rigl, step, kind)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    masks, gradients = rigl.masks, dense_gradients(model, 3 * EVERY - 1, kind)
    moments = {n: [t.clone() for t in moments_of(used, p)] for n, p in model.named_parameters()}
    assert any(moments.values()) or optimizer == "sgd"
    take_step(model, used, rigl, 3 * EVERY - 1, kind)

    assert rigl.updates[-1].step == rigl.steps == 3 * EVERY
    fraction = 0.15 * (1 + cos(pi * 3 * EVERY / 30))
    assert rigl.updates[-1].fraction == pytest.approx(fraction)
    moved = 0
    for name, parameter in model.named_parameters():
        if name not in masks:  # the update takes the place of the step
            assert torch.equal(parameter, weights[name])
            continue
        kept, grown = expected_update(weights[name], masks[name], gradients[name], fraction)
        before = set(masks[name].reshape(-1).nonzero().squeeze(1).tolist())
        new = torch.zeros_like(masks[name])
        new.view(-1)[sorted(kept | grown)] = True
        assert torch.equal(rigl.masks[name], new)
        assert set(rigl.latest[name].dropped.tolist()) == before - kept - grown
        assert set(rigl.latest[name].grown.tolist()) == grown - before
        # values and moments stay where a weight was and is, and are 0 elsewhere
        stays = new & masks[name]
        assert torch.equal(parameter, torch.where(stays, weights[name], 0))
        for moment, was in zip(moments_of(used, parameter), moments[name], strict=True):
            assert torch.equal(moment, torch.where(stays, was, 0))
        moved += len(grown - before)
    assert moved


def test_a_weight_that_goes_and_comes_at_once_keeps_its_value_and_moments():
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rigl = RigL(model, optimizer, 0.5, total_steps=10, every=2, until=1.0, fraction=0.6, decay="constant")
    mask, weight = rigl.masks["0.weight"].reshape(-1), model[0].weight
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    rigl.step()
    smallest = min(mask.nonzero().squeeze(1).tolist(), key=lambda i: weight[0, i].abs().item())
    value, momentum = weight[0, smallest].item(), optimizer.state[weight]["momentum_buffer"][0, smallest].item()
    assert value
    assert momentum
    x = torch.zeros(1, 4)
    x[0, smallest] = 1.0  # only there is a gradient
    optimizer.zero_grad()
    model(x).sum().backward()
    optimizer.step()
    rigl.step()
    assert len(rigl.updates) == 1
    assert torch.equal(rigl.masks["0.weight"].reshape(-1), mask)
    assert weight[0, smallest].item() == value
    assert optimizer.state[weight]["momentum_buffer"][0, smallest].item() == momentum


def test_grown_weights_begin_at_zero_and_move_at_the_next_step():
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rigl = RigL(model, optimizer, 0.3, total_steps=TOTAL, every=EVERY)
    for step in range(EVERY):
        take_step(model, optimizer, rigl, step)
    grown = {name: change.grown for name, change in rigl.latest.items()}
    assert sum(map(len, grown.values())) > 5
    parameters = dict(model.named_parameters())
    assert all(not parameters[name].take(positions).any() for name, positions in grown.items())
    take_step(model, optimizer, rigl, EVERY)
    live = {name: parameters[name].grad.take(positions) != 0 for name, positions in grown.items()}
    assert sum(int(each.sum()) for each in live.values()) > 5
    for name, positions in grown.items():
        assert torch.equal(parameters[name].take(positions) != 0, live[name])


def test_growth_prefers_no_kept_weight_where_gradients_are_zero():
    # inputs that are always 0 leave most of the gradient 0: kept positions must not count among those
    model = nn.Sequential(nn.Linear(50, 2, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rigl = RigL(model, optimizer, 0.4, total_steps=10, every=1, until=1.0, fraction=0.5, decay="constant")
    x = torch.zeros(3, 50)
    x[:, 0] = 1
    for _ in range(5):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        rigl.step()
        assert rigl.masks.kept == 40


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_a_set_update_follows_the_step_and_draws_among_what_is_not_kept(optimizer):
    model, twin = build(MLP), build(MLP)
    used, other = (OPTIMIZERS[optimizer](m.parameters()) for m in (model, twin))
    evolved = SET(model, used, 0.4, total_steps=TOTAL, every=EVERY, seed=3)
    plain = SET(twin, other, 0.4, total_steps=TOTAL, every=EVERY + 1, seed=3)
    for step in range(EVERY):  # the twin takes the same steps, and has no update yet
        take_step(model, used, evolved, step)
        take_step(twin, other, plain, step)
    fraction = evolved.updates[0].fraction
    for name, parameter in twin.named_parameters():
        if name not in plain.masks:
            assert torch.equal(parameter, dict(model.named_parameters())[name])
            continue
        mask = plain.masks[name]
        kept, _ = expected_update(parameter, mask, torch.zeros_like(parameter), fraction)
        free = torch.ones(mask.numel(), dtype=torch.bool)
        free[sorted(kept)] = False
        draws = generator(3, "set", "grow", EVERY, name)
        grown = set(random_positions(free, int(mask.sum()) - len(kept), draws).tolist())
        new = torch.zeros_like(mask)
        new.view(-1)[sorted(kept | grown)] = True
        assert torch.equal(evolved.masks[name], new)
        own = dict(model.named_parameters())[name]
        assert torch.equal(own, torch.where(new & mask, parameter, 0))
        for moment, was in zip(moments_of(used, own), moments_of(other, parameter), strict=True):
            assert torch.equal(moment, torch.where(new & mask, was, 0))


def test_signed_set_drops_the_same_share_of_each_sign():
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    evolved = SET(
        model, optimizer, 0.5, total_steps=10, every=1, until=0.2, fraction=0.4, decay="constant", signed=True
    )
    evolved_before = {n: p.detach().clone() for n, p in model.named_parameters() if n in evolved.masks}
    masks = evolved.masks
    take_step(model, optimizer, evolved, 0)
    for name, before in evolved_before.items():
        active = before[masks[name]].tolist()
        gone = set()
        for side in (sorted(v for v in active if v >= 0), sorted((v for v in active if v < 0), reverse=True)):
            gone |= set(side[: floor(0.4 * len(side))])
        left = before[masks[name] & (dict(model.named_parameters())[name] != 0)].tolist()
        assert set(left) >= set(active) - gone
        assert evolved.masks[name].sum() == masks[name].sum()


@pytest.mark.parametrize(("room", "count"), [(50, 0), (50, 3), (50, 12), (50, 13), (50, 50), (1, 1)])
def test_random_positions_are_free_and_distinct(room, count):
    free = torch.zeros(200, dtype=torch.bool)
    free[torch.randperm(200, generator=generator(0))[:room]] = True
    drawn = random_positions(free, count, generator(1))
    assert len(drawn) == len(set(drawn.tolist())) == count
    assert free[drawn].all()
    assert torch.equal(drawn, drawn.sort().values)


@pytest.mark.parametrize("count", [2, 6])
def test_each_free_position_is_drawn_as_often(count):
    free = torch.ones(12, dtype=torch.bool)
    free[[0, 7]] = False
    seen, trials = torch.zeros(12), 6000
    draws = generator(0)
    for _ in range(trials):
        seen[random_positions(free, count, draws)] += 1
    expected = trials * count / 10
    deviation = (trials * (count / 10) * (1 - count / 10)) ** 0.5
    assert not seen[[0, 7]].any()
    assert ((seen[free] - expected).abs() < 5 * deviation).all()


def test_the_batch_of_the_update_is_what_grows():
    # averaged over the accumulated batches: two halves do as the whole
    grown = []
    for parts in (1, 2):
        model = build(MLP)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        rigl = RigL(model, optimizer, 0.3, total_steps=TOTAL, every=1)
        x, y = batch(MLP, size=12)
        optimizer.zero_grad()
        for here, there in zip(x.chunk(parts), y.chunk(parts), strict=True):
            (nn.functional.cross_entropy(model(here), there) / parts).backward()
        optimizer.step()
        rigl.step()
        grown.append(rigl.masks)
    assert grown[0] == grown[1]
