"""MEST: one update written out, and how many weights there are between updates and at the end."""

from math import cos, floor, inf, nan, pi

import pytest
import torch

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.sparse_training import MEST
from prunus.sparse_training.layer import random_positions
from toy import MLP, ConvNet, build
from training import EVERY, OPTIMIZERS, STEPS, losses, made, moments_of, same_tensors, take_step, trained


def expected_update(weight, mask, gradient, base, step, fraction, name, factor):
    """By the words of the paper, one weight at a time: the kept and the grown positions."""
    w, g = weight.reshape(-1).tolist(), gradient.reshape(-1).tolist()
    active = mask.reshape(-1).nonzero().squeeze(1).tolist()
    kept = sorted(active, key=lambda i: (-(abs(w[i]) + factor * abs(g[i])), i))[:base]
    free = torch.ones(len(w), dtype=torch.bool)
    free[kept] = False
    count = min(floor(fraction * base), len(w) - base)
    return set(kept), set(random_positions(free, count, generator(3, "mest", "grow", step, name)).tolist())


@pytest.mark.parametrize("factor", [0.0, 10.0])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw", "adamw, fused"])
@pytest.mark.parametrize("kind", [MLP, ConvNet])
def test_an_update_is_the_one_of_the_paper(kind, optimizer, factor):
    model, twin = build(kind), build(kind)
    used, other = (OPTIMIZERS[optimizer](m.parameters()) for m in (model, twin))
    mest, waiting = (
        made("mest", m, o, seed=3, decay="constant", gradient_weight=factor) for m, o in ((model, used), (twin, other))
    )
    for step in range(2 * EVERY - 1):
        take_step(model, used, mest, step, kind)
        take_step(twin, other, waiting, step, kind)
    take_step(model, used, mest, 2 * EVERY - 1, kind)
    other.zero_grad()  # the twin takes the optimizer's step alone
    losses(twin, 2 * EVERY - 1, kind=kind).backward()
    other.step()
    before, dropped, by_size = dict(twin.named_parameters()), 0, True
    for name, parameter in model.named_parameters():
        if name not in mest.masks:
            assert torch.equal(parameter, before[name])
            continue
        mask, base = waiting.masks[name], waiting.started[name]
        given = before[name], mask, before[name].grad, base, 2 * EVERY, 0.5, name
        kept, grown = expected_update(*given, factor)
        by_size &= kept == expected_update(*given, 0.0)[0]
        new = torch.zeros(mask.numel(), dtype=torch.bool)
        new[sorted(kept | grown)] = True
        new = new.view_as(mask)
        assert torch.equal(mest.masks[name], new)
        stays = new & mask
        assert torch.equal(parameter, torch.where(stays, before[name], 0))
        for moment, was in zip(moments_of(used, parameter), moments_of(other, before[name]), strict=True):
            assert torch.equal(moment, torch.where(stays, was, 0))
        dropped += int((mask & ~new).sum())
    assert dropped
    assert by_size == (factor == 0)


@pytest.mark.parametrize("density", [0.1, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_the_number_of_weights_is_soft_between_and_exact_at_the_end(optimizer, density):
    model = build(ConvNet)
    used = OPTIMIZERS[optimizer](model.parameters())
    mest = made("mest", model, used, density)
    sizes = {name: mask.numel() for name, mask in mest.masks.items()}
    base, due = dict(mest.started), [5, 10, 15, 20, 25, 30]
    expected = base
    assert sum(base.values()) == round(density * mest.masks.total)
    for step in range(1, STEPS + 1):
        take_step(model, used, mest, step, ConvNet)
        if step in due:
            part = 0.25 * (1 + cos(pi * step / 30)) if step < 30 else 0
            expected = {n: min(sizes[n], base[n] + floor(part * base[n])) for n in base}
        masks = mest.masks
        assert {name: int(mask.sum()) for name, mask in masks.items()} == expected
        for name, parameter in model.named_parameters():
            if name in masks:
                assert not parameter[~masks[name]].any()
                assert all(not moment[~masks[name]].any() for moment in moments_of(used, parameter))
    assert [update.step for update in mest.updates] == due
    assert masks.kept == round(density * masks.total)
    assert mest.updates[-1].kept == base


def test_what_is_new_is_not_dropped_before_it_was_trained():
    model, optimizer, mest = trained("mest", steps=EVERY)
    grown = {name: change.grown for name, change in mest.latest.items()}
    assert sum(map(len, grown.values())) == sum(mest.updates[0].grown.values()) > 5
    for step in range(EVERY, 2 * EVERY - 1):
        take_step(model, optimizer, mest, step)
        assert all(mest.masks[name].reshape(-1)[positions].all() for name, positions in grown.items())
    parameters = dict(model.named_parameters())
    assert sum(int(parameters[n].take(positions).count_nonzero()) for n, positions in grown.items()) > 5


@pytest.mark.parametrize("fused", [False, True])
def test_the_gradient_counts_without_the_scale_of_the_loss_and_cleared_ones_too(fused):
    found = []
    for scale in (1.0, 2.0**10):
        model = build(MLP)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
        mest = made("mest", model, optimizer, gradient_weight=10.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for step in range(STEPS):
            scaler.scale(losses(model, step)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()  # before the method's step, which does not mind
            mest.step()
        found.append((mest.masks, model.state_dict()))
    assert found[0][0] == found[1][0]
    assert same_tensors(found[0][1], found[1][1])


@pytest.mark.parametrize("fused", [False, True])
def test_an_update_waits_for_a_step_that_is_taken(fused):
    model = build(MLP)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
    mest = made("mest", model, optimizer, gradient_weight=10.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for step in range(1, 2 * EVERY + 2):
        optimizer.zero_grad()
        scaler.scale(losses(model, step) * (inf if step == 2 * EVERY else 1)).backward()
        before = mest.masks
        scaler.step(optimizer)
        scaler.update()
        mest.step()
        assert (mest.masks == before) == (step not in (EVERY, 2 * EVERY + 1))
    assert [update.step for update in mest.updates] == [EVERY, 2 * EVERY]


def test_given_masks_are_the_density():
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    start = Masks.random(model, 0.25, scope="uniform", generator=torch.Generator().manual_seed(1))
    mest = MEST(model, optimizer, start=start, total_steps=STEPS, every=EVERY)
    for step in range(STEPS):
        take_step(model, optimizer, mest, step)
    assert {n: int(m.sum()) for n, m in mest.masks.items()} == {n: int(m.sum()) for n, m in start.items()}


def test_it_goes_on_between_bounds():
    # the numbers of the density are in the state, where more weights are active
    _, _, expected = trained("mest", gradient_weight=1.0)
    model, _, mest = trained("mest", gradient_weight=1.0, steps=EVERY + 2)
    other = build(MLP, seed=5)
    used = OPTIMIZERS["sgd"](other.parameters())
    again = made("mest", other, used, scope="uniform")
    again.load_state_dict(mest.state_dict())
    other.load_state_dict(model.state_dict())
    assert again.started == mest.started
    for step in range(EVERY + 2, STEPS):
        take_step(other, used, again, step)
    assert again.updates[-1].kept == expected.updates[-1].kept


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gradient_weight": -1.0}, r"gradient_weight is -1\.0; allowed: a number of at least 0"),
        ({"gradient_weight": nan}, "gradient_weight is nan"),
        ({"gradient_weight": inf}, "gradient_weight is inf"),
        ({"fraction": 1.5}, r"fraction is 1\.5"),
        ({"pattern": "2:4"}, "allowed with MEST: None"),
    ],
)
def test_what_is_refused(options, words):
    model = build(MLP)
    with pytest.raises(Invalid, match=words):
        made("mest", model, torch.optim.SGD(model.parameters(), lr=0.1), **options)
