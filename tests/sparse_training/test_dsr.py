"""DSR: one update written out, how the threshold moves, and that the number of weights never changes."""

from math import nan

import pytest
import torch
from shares import quotas
from torch import nn

from prunus.core.errors import Invalid
from prunus.core.seeds import generator
from prunus.sparse_training import DSR
from prunus.sparse_training.layer import random_positions
from toy import MLP, ConvNet, build
from training import EVERY, OPTIMIZERS, STEPS, made, moments_of, take_step, trained

#: A threshold under which toy networks have some weights.
THRESHOLD = 0.1


def expected_update(weights, masks, threshold, step, seed):
    """By the words of the paper: the survivors and the grown positions of each layer, and how many were dropped."""
    active = {n: [i for i, there in enumerate(m.reshape(-1).tolist()) if there] for n, m in masks.items()}
    survivors = {n: [i for i in active[n] if abs(weights[n].reshape(-1)[i].item()) >= threshold] for n in masks}
    dropped = sum(len(active[n]) - len(survivors[n]) for n in masks)
    free = {n: masks[n].numel() - len(survivors[n]) for n in masks}
    counts = quotas({n: len(survivors[n]) for n in masks}, free, dropped)
    found = {}
    for n, mask in masks.items():
        there = torch.ones(mask.numel(), dtype=torch.bool)
        there[survivors[n]] = False
        draws = generator(seed, "dsr", "grow", step, n)
        found[n] = set(survivors[n]), set(random_positions(there, counts[n], draws).tolist())
    return found, dropped


@pytest.mark.parametrize("kind", [MLP, ConvNet])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_an_update_is_the_one_of_the_paper(kind, optimizer):
    model, twin = build(kind), build(kind)
    used, other = (OPTIMIZERS[optimizer](m.parameters()) for m in (model, twin))
    dsr = made("dsr", model, used, threshold=THRESHOLD, seed=3)
    waiting = made("dsr", twin, other, threshold=THRESHOLD, seed=3, every=EVERY + 1)
    for step in range(EVERY):  # the twin takes the same steps, and has no update yet
        take_step(model, used, dsr, step, kind)
        take_step(twin, other, waiting, step, kind)
    before = dict(twin.named_parameters())
    expected, dropped = expected_update(before, waiting.masks, THRESHOLD, EVERY, 3)
    assert dropped > 5
    target = 0.1 * waiting.masks.kept
    factor = 2 if dropped < 0.9 * target else 0.5 if dropped > 1.1 * target else 1
    assert dsr.threshold == THRESHOLD * factor
    for name, (kept, grown) in expected.items():
        new = torch.zeros(before[name].numel(), dtype=torch.bool)
        new[sorted(kept | grown)] = True
        new = new.view_as(before[name])
        assert torch.equal(dsr.masks[name], new)
        stays = new & waiting.masks[name]
        own = dict(model.named_parameters())[name]
        assert torch.equal(own, torch.where(stays, before[name], 0))
        for moment, was in zip(moments_of(used, own), moments_of(other, before[name]), strict=True):
            assert torch.equal(moment, torch.where(stays, was, 0))


@pytest.mark.parametrize("density", [0.1, 0.3, 0.9])
@pytest.mark.parametrize("threshold", [1e-3, 0.1, 1e3])  # the last is above every weight
def test_the_number_of_weights_never_changes(threshold, density):
    model = build(ConvNet)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    dsr = made("dsr", model, optimizer, density, threshold=threshold)
    for step in range(STEPS):
        take_step(model, optimizer, dsr, step, ConvNet)
        masks = dsr.masks
        assert masks.kept == round(density * masks.total)
        for name, parameter in model.named_parameters():
            if name in masks:
                assert not parameter[~masks[name]].any()
                assert all(not moment[~masks[name]].any() for moment in moments_of(optimizer, parameter))
    assert [update.step for update in dsr.updates] == [5, 10, 15, 20, 25]
    assert all(update.fraction == 0.1 for update in dsr.updates)


def still(count=100, density=1.0, **options):
    """DSR on weights of 0.001, 0.002, … that do not move, and its next update."""
    model = nn.Linear(count, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.arange(1, count + 1) / 1000)
    dsr = DSR(model, torch.optim.SGD(model.parameters(), lr=0.0), density, total_steps=400, every=1, **options)

    def update(step):
        model(torch.ones(1, count)).sum().backward()
        dsr.optimizer.step()
        dsr.step()
        return dsr.updates[-1]

    return dsr, update


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (0.10, [0.002, 0.004, 0.008, 0.016, 0.008, 0.016]),  # under 0.016 are 15 of 100, under 0.008 only 7
        (0.15, [0.002, 0.004, 0.008, 0.016, 0.016, 0.016]),
        (0.14, [0.002, 0.004, 0.008, 0.016, 0.016, 0.016]),  # 15 < 1.1 · 14
        (0.13, [0.002, 0.004, 0.008, 0.016, 0.008, 0.016]),
    ],
)
def test_the_threshold_doubles_and_halves_until_so_many_drop(fraction, expected):
    dsr, update = still(fraction=fraction)
    found = []
    for step in range(len(expected)):
        update(step)
        found.append(dsr.threshold)
    assert found == pytest.approx(expected)
    assert not any(change.grown.numel() for change in dsr.latest.values())  # no other place was free


def test_a_threshold_never_becomes_zero():
    dsr, update = still(fraction=0.0, threshold=5e-324, tolerance=0.0)
    for layer in dsr.layers.values():
        layer.weight.data.zero_()
    for step in range(3):
        update(step)
        assert dsr.threshold > 0


def test_layers_grow_in_proportion_to_what_survived():
    model = nn.Sequential(nn.Linear(50, 10, bias=False), nn.Linear(10, 50, bias=False))
    dsr = DSR(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.1, total_steps=9, every=1, scope="uniform")
    for weight, large in zip(model.parameters(), (10, 30), strict=True):  # of 50 active weights
        active = weight.detach().reshape(-1).nonzero().squeeze(1)
        with torch.no_grad():
            weight.put_(active, torch.full((50,), 1e-6))
            weight.put_(active[:large], torch.full((large,), 1.0))
    found = {name: (len(kept), len(grown)) for name, (kept, grown) in dsr.choices(0.1, 1)}
    assert list(found.values()) == [(10, 15), (30, 45)]


def test_no_layer_gets_more_than_it_has_room_for():
    model = nn.Sequential(nn.Linear(5, 2, bias=False), nn.Linear(2, 100, bias=False))
    dsr = DSR(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.5, total_steps=9, every=1, scope="uniform")
    with torch.no_grad():
        for weight, value in zip(model.parameters(), (1.0, 1e-6), strict=True):
            weight.copy_((weight != 0) * value)
        weight.reshape(-1)[weight.reshape(-1).nonzero()[0]] = 1.0
    found = {name: (len(kept), len(grown)) for name, (kept, grown) in dsr.choices(0.1, 1)}
    assert list(found.values()) == [(5, 5), (1, 94)]  # in proportion it would have been 83 and 16


def test_the_threshold_is_saved():
    _, _, dsr = trained("dsr", steps=EVERY)
    assert dsr.threshold == 2e-3
    model = build(MLP, seed=5)
    again = made("dsr", model, torch.optim.SGD(model.parameters(), lr=0.1))
    again.load_state_dict(dsr.state_dict())
    assert again.threshold == 2e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 0.0}, r"threshold is 0\.0; allowed: a number above 0"),
        ({"threshold": nan}, "threshold is nan"),
        ({"threshold": float("inf")}, "threshold is inf"),
        ({"tolerance": 1.0}, r"tolerance is 1\.0"),
        ({"tolerance": -1}, "tolerance is -1"),
        ({"pattern": "fan-in"}, "allowed with DSR: None"),
    ],
)
def test_what_is_refused(options, words):
    model = build(MLP)
    with pytest.raises(Invalid, match=words):
        made("dsr", model, torch.optim.SGD(model.parameters(), lr=0.1), **options)
