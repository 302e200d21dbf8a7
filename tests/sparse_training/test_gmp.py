"""Gradual magnitude pruning: the published law, one update written out, exact counts under scopes and patterns."""

from math import ceil, nan

import pytest
import torch
from torch import nn

from prunus.core.allocation import allot
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.core.select import select
from prunus.sparse_training import GMP
from toy import MLP, ConvNet, build
from training import EVERY, OPTIMIZERS, STEPS, losses, made, moments_of, same_tensors, take_step, trained


def plain(kind=MLP):
    model = build(kind)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def density_at(step, end=30, initial=1.0, final=0.3):
    return final + (initial - final) * (1 - min(step / end, 1)) ** 3


def test_the_law_of_the_paper():
    gmp = GMP(*plain(), 0.1, total_steps=100, every=1, until=1.0)
    assert [1 - gmp.density_at(t) for t in (0, 10, 25, 50, 75, 100)] == pytest.approx(
        [0, 0.24390, 0.52031, 0.78750, 0.88594, 0.9], abs=5e-6
    )
    later = GMP(*plain(), 0.1, total_steps=200, every=5, since=0.25, until=0.75)
    assert [1 - later.density_at(t) for t in (0, 50, 60, 75, 100, 125, 150, 200)] == pytest.approx(
        [0, 0, 0.24390, 0.52031, 0.78750, 0.88594, 0.9, 0.9], abs=5e-6
    )
    assert [t for t in range(201) if later.due(t)] == list(range(55, 151, 5))


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_an_update_keeps_the_largest_of_all_layers(optimizer):
    model, twin = build(ConvNet), build(ConvNet)
    used, other = (OPTIMIZERS[optimizer](m.parameters()) for m in (model, twin))
    gmp, waiting = made("gmp", model, used), made("gmp", twin, other, every=EVERY + 1)
    for step in range(EVERY):  # the twin takes the same steps, and has no update yet
        take_step(model, used, gmp, step, ConvNet)
        take_step(twin, other, waiting, step, ConvNet)
    before = dict(twin.named_parameters())
    places = [
        (-abs(value), order, i, name)
        for order, name in enumerate(gmp.masks)
        for i, value in enumerate(before[name].reshape(-1).tolist())
    ]
    kept = {(name, i) for _, _, i, name in sorted(places)[: round(density_at(EVERY) * len(places))]}
    for name, parameter in model.named_parameters():
        if name not in gmp.masks:
            assert torch.equal(parameter, before[name])
            continue
        mask = torch.tensor([(name, i) in kept for i in range(parameter.numel())]).view_as(parameter)
        assert torch.equal(gmp.masks[name], mask)
        assert torch.equal(parameter, torch.where(mask, before[name], 0))
        for moment, was in zip(moments_of(used, parameter), moments_of(other, before[name]), strict=True):
            assert torch.equal(moment, torch.where(mask, was, 0))
    assert gmp.updates[0].fraction == pytest.approx(1 - len(kept) / len(places))


@pytest.mark.parametrize("scope", ["global", "uniform", "erk", "lamp", "uniform-first-last"])
@pytest.mark.parametrize(("since", "every"), [(0.0, 5), (0.1, 7)])
def test_counts_are_exact_at_every_step_and_what_went_stays_away(scope, since, every):
    model = build(ConvNet)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    gmp = made("gmp", model, optimizer, scope=scope, since=since, every=every)
    first, before, expected = round(since * STEPS), gmp.masks, gmp.masks.total
    assert gmp.masks.density == 1
    for step in range(1, STEPS + 1):
        take_step(model, optimizer, gmp, step, ConvNet)
        if step == 30 or (step < 30 and step > first and (step - first) % every == 0):
            expected = round(density_at(step - first, 30 - first) * before.total)
        masks = gmp.masks
        assert masks.kept == expected
        assert (masks & before) == masks
        for name, parameter in model.named_parameters():
            if name in masks:
                assert not parameter[~masks[name]].any()
                assert all(not moment[~masks[name]].any() for moment in moments_of(optimizer, parameter))
        before = masks
    assert expected == round(0.3 * before.total)  # also where the last regular update is before the end
    assert gmp.updates[-1].step == 30
    if scope in ("uniform", "erk", "uniform-first-last"):
        scores = {name: weight.detach() for name, weight in prunable(model).items()}
        assert gmp.updates[-1].kept == allot(scope, scores, expected)


class Fours(nn.Sequential):
    """8 → 12 → 4, and the last as a convolution."""

    def __init__(self):
        super().__init__(
            *(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8), nn.Unflatten(1, (8, 1, 1))),
            *(nn.Conv2d(8, 4, 3, padding=1), nn.Flatten()),
        )


@pytest.mark.parametrize(("pattern", "density"), [("2:4", 0.5), ("1:4", 0.25), ("fan-in", 0.3)])
def test_patterns_hold_all_the_way(pattern, density):
    model = build(Fours)
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    gmp = GMP(model, optimizer, density, total_steps=STEPS, every=EVERY, pattern=pattern)
    draws = torch.Generator().manual_seed(0)
    before = gmp.masks
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        model(torch.randn(6, 8, generator=draws)).square().mean().backward()
        optimizer.step()
        gmp.step()
        masks, due = gmp.masks, min(step // EVERY * EVERY, 30)
        assert (masks & before) == masks
        before = masks
        for name, mask in masks.items():
            inputs = mask.movedim(1, -1) if pattern != "fan-in" else mask
            width = 4 if pattern != "fan-in" else mask[0].numel()
            each = inputs.reshape(-1, width).sum(1)
            final = int(density * width)
            wanted = final if due == 30 else max(final, ceil(density_at(due, final=density) * width))
            assert (each == wanted).all(), (name, step)
            assert int(mask.sum()) == gmp.layers[name].kept
    assert gmp.updates[-1].step == 30


def test_of_each_group_the_largest_are_kept():
    model = nn.Sequential(nn.Linear(8, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[4.0, -3, 2, 1, 0.1, 0.4, -0.2, 0.4]]))
    gmp = GMP(model, torch.optim.SGD(model.parameters(), lr=0.0), 0.5, total_steps=4, every=1, pattern="2:4")
    for _ in range(4):
        model(torch.ones(1, 8)).sum().backward()
        gmp.optimizer.step()
        gmp.step()
    assert gmp.masks["0.weight"].tolist() == [[True, True, False, False, False, True, False, True]]


def test_at_a_density_of_one_it_is_the_plain_training():
    model, _, gmp = trained("gmp", density=1.0)
    other = build(MLP)
    used = OPTIMIZERS["momentum"](other.parameters())
    for step in range(STEPS):
        used.zero_grad()
        losses(other, step).backward()
        used.step()
    assert same_tensors(model.state_dict(), other.state_dict())
    assert all(not any(update.dropped.values()) for update in gmp.updates)


def test_it_begins_with_the_largest_or_with_given_masks():
    model, optimizer = plain()
    scores = {name: weight.detach().abs() for name, weight in prunable(model).items()}
    expected = select(scores, 0.6, "global")
    assert made("gmp", model, optimizer, initial=0.6).masks == expected

    model, optimizer = plain()
    start = Masks.random(model, 0.7, generator=torch.Generator().manual_seed(1))
    gmp = made("gmp", model, optimizer, start=start)
    assert gmp.masks == start
    before = start
    for step in range(1, STEPS + 1):
        take_step(model, optimizer, gmp, step)
        assert (gmp.masks & before) == gmp.masks
        before = gmp.masks
    counts = [sum(update.kept.values()) for update in gmp.updates]
    steps = [update.step for update in gmp.updates]
    assert counts == [round(density_at(s, initial=start.density) * start.total) for s in steps]


def test_ties_go_by_position():
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 4, bias=False))
    for weight in model.parameters():
        nn.init.constant_(weight, -0.5)
    gmp = GMP(model, torch.optim.SGD(model.parameters(), lr=0.0), 0.625, total_steps=2, every=1, until=0.5)
    model(torch.ones(1, 4)).sum().backward()
    gmp.optimizer.step()
    gmp.step()
    assert [mask.reshape(-1).int().tolist() for mask in gmp.masks.values()] == [[1] * 12, [1] * 3 + [0] * 9]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"density": None}, "density is None; allowed"),
        ({"initial": 0.2}, r"density is 0\.3 and initial 0\.2; allowed"),
        ({"initial": 1.5}, r"initial is 1\.5"),
        ({"since": 0.75}, r"since is 0\.75 and until 0\.75 of 40 steps: the schedule ends before it begins"),
        ({"since": -0.1}, r"since is -0\.1"),
        ({"since": nan}, "since is nan"),
        ({"until": 0.0}, r"until is 0\.0"),
        ({"every": 0}, "every is 0"),
        ({"total_steps": 0}, "total_steps is 0"),
        ({"scope": "globl"}, "did you mean 'global'"),
        ({"scope": "uniform-first-last", "density": 0.05}, "'uniform-first-last' cannot keep"),
        ({"pattern": "2:4"}, r"2:4"),
        ({"pattern": "2:3", "exclude": ["2.*", "4.*"]}, r"density is 0\.3.* allowed with pattern '2:3': 0\.666667"),
        ({"pattern": "fan-in", "initial": 0.5}, r"initial is 0\.5.* allowed with a pattern: initial 1"),
        ({"pattern": "fan-in", "density": 0.05}, "less than one of the 6 weights of each unit"),
    ],
)
def test_what_is_refused(options, words):
    model, optimizer = plain()
    before = [p.detach().clone() for p in model.parameters()]
    given = {"density": 0.3, "total_steps": STEPS, "every": EVERY, **options}
    with pytest.raises(Invalid, match=words):
        GMP(model, optimizer, **given)
    assert all(torch.equal(p, was) for p, was in zip(model.parameters(), before, strict=True))
