"""SNFS: one update written out, how growth is shared among layers, and that the number of weights never changes."""

from math import cos, floor, inf, nan, pi

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shares import quotas
from torch import nn

from prunus.core.errors import Invalid
from prunus.sparse_training import SNFS
from prunus.sparse_training.snfs import shared
from toy import MLP, ConvNet, build
from training import EVERY, OPTIMIZERS, STEPS, losses, made, moments_of, same_tensors, take_step, trained


def dense_gradients(model, step, kind):
    """The gradients of a twin of the model that holds no masks, at the same weights."""
    twin = build(kind)
    twin.load_state_dict(model.state_dict())
    losses(twin, step, kind=kind).backward()
    return {name: p.grad.double().numpy().ravel() for name, p in twin.named_parameters()}


def expected_update(weights, masks, momenta, fraction):
    """By the words of the paper: the kept and the grown positions of each layer."""
    active = {n: [i for i, there in enumerate(mask) if there] for n, mask in masks.items()}
    means = {n: float(np.mean([abs(momenta[n][i]) for i in active[n]])) for n in masks}
    drops = {n: floor(fraction * len(active[n])) for n in masks}
    caps = {n: floor(0.99 * (len(mask) - len(active[n]) + drops[n])) for n, mask in masks.items()}
    quota = quotas(means, caps, sum(drops.values()))
    found = {}
    for n, mask in masks.items():
        kept = sorted(active[n], key=lambda i: (-abs(weights[n][i]), i))[: len(active[n]) - drops[n]]
        free = [i for i in range(len(mask)) if i not in kept]
        found[n] = set(kept), set(sorted(free, key=lambda i: (-abs(momenta[n][i]), i))[: quota[n]])
    return found


@pytest.mark.parametrize("kind", [MLP, ConvNet])
@pytest.mark.parametrize("optimizer", ["momentum", "adamw", "adamw, fused"])
def test_an_update_is_the_one_of_the_paper(kind, optimizer):
    model, twin = build(kind), build(kind)
    used, other = (OPTIMIZERS[optimizer](m.parameters()) for m in (model, twin))
    snfs, waiting = made("snfs", model, used), made("snfs", twin, other, every=EVERY + 1)
    momenta = {name: np.zeros(mask.numel()) for name, mask in snfs.masks.items()}
    for step in range(EVERY):  # the twin takes the same steps, and has no update yet
        gradients = dense_gradients(model, step, kind)
        momenta = {name: 0.9 * m + 0.1 * gradients[name] for name, m in momenta.items()}
        take_step(model, used, snfs, step, kind)
        take_step(twin, other, waiting, step, kind)
    for name, average in waiting.averages.items():
        assert np.allclose(average.numpy().ravel(), momenta[name], rtol=1e-4, atol=1e-7)

    fraction = 0.25 * (1 + cos(pi * EVERY / 30))
    assert snfs.updates[0].fraction == pytest.approx(fraction)
    before = {n: p.detach() for n, p in twin.named_parameters()}
    masks = {n: m.numpy().ravel() for n, m in waiting.masks.items()}
    weights = {n: before[n].numpy().ravel() for n in masks}
    expected = expected_update(weights, masks, momenta, fraction)
    assert any(snfs.updates[0].kept[n] != snfs.started[n] for n in masks)
    for name, parameter in model.named_parameters():
        if name not in masks:
            assert torch.equal(parameter, before[name])
            continue
        kept, grown = expected[name]
        new = torch.zeros(parameter.numel(), dtype=torch.bool)
        new[sorted(kept | grown)] = True
        new = new.view_as(parameter)
        assert torch.equal(snfs.masks[name], new)
        stays = new & waiting.masks[name]  # what comes begins at 0, and so do its moments
        assert torch.equal(parameter, torch.where(stays, before[name], 0))
        own = dict(twin.named_parameters())[name]
        for moment, was in zip(moments_of(used, parameter), moments_of(other, own), strict=True):
            assert torch.equal(moment, torch.where(stays, was, 0))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_the_number_of_weights_never_changes(optimizer, normalise):
    model = build(ConvNet)
    used = OPTIMIZERS[optimizer](model.parameters())
    snfs = made("snfs", model, used, normalise=normalise)
    for step in range(STEPS):
        before = snfs.masks
        take_step(model, used, snfs, step, ConvNet)
        masks = snfs.masks
        assert masks.kept == round(0.3 * masks.total)
        for name, parameter in model.named_parameters():
            if name in masks:  # the optimizer had the gradient of active weights alone
                assert not parameter[~masks[name]].any()
                assert not parameter.grad[~before[name]].any()
                assert all(not moment[~masks[name]].any() for moment in moments_of(used, parameter))
    assert [update.step for update in snfs.updates] == [5, 10, 15, 20, 25]
    assert any(update.kept != snfs.started for update in snfs.updates)


def test_layers_grow_in_proportion_to_their_momentum():
    model = nn.Sequential(*(nn.Linear(40, 40, bias=False) for _ in range(3)))
    snfs = SNFS(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.1, total_steps=10, every=1, scope="uniform")
    for average, mean in zip(snfs.averages.values(), (1.0, 3.0, 4.0), strict=True):
        average.copy_(torch.full((40, 40), mean))
    grown = {name: len(found) for name, (_, found) in snfs.choices(0.5, 1)}
    assert list(grown.values()) == [240 * share // 8 for share in (1, 3, 4)]


def test_with_nearly_all_weights_active_what_goes_comes_back_somewhere():
    _, _, snfs = trained("snfs", density=0.99, fraction=1.0, decay="constant", steps=EVERY)
    assert sum(snfs.updates[0].kept.values()) == round(0.99 * snfs.masks.total)
    _, _, dense = trained("snfs", density=1.0)
    assert dense.masks.density == 1


means = st.one_of(st.floats(0, 1e30), st.sampled_from([0.0, nan, inf]))


@given(st.lists(st.tuples(means, st.integers(0, 300)), min_size=1, max_size=6), st.data())
def test_shares_are_exact_and_fit(layers, data):
    of = {str(i): mean for i, (mean, _) in enumerate(layers)}
    free = {str(i): room for i, (_, room) in enumerate(layers)}
    count = data.draw(st.integers(0, sum(free.values())))
    found = shared(of, free, count)
    caps = {name: floor(0.99 * room) for name, room in free.items()}
    assert sum(found.values()) == count
    assert all(0 <= found[name] <= free[name] for name in free)
    if sum(caps.values()) >= count:
        assert all(found[name] <= caps[name] for name in free)


@pytest.mark.parametrize(
    ("of", "free", "count", "expected"),
    [
        ((1.0, 2.0, 1.0), (100, 100, 100), 8, [2, 4, 2]),
        ((1.0, 2.0, 1.0), (100, 3, 100), 8, [3, 2, 3]),  # ⌊0.99 · 3⌋ = 2, and 6 are left for two equal ones
        ((1.0, 1.0, 1.0), (100, 100, 100), 8, [3, 3, 2]),  # ties by position
        ((0.0, nan, 0.0), (100, 50, 50), 8, [4, 2, 2]),
        ((nan, 5e-324, 0.0), (100, 100, 100), 8, [0, 8, 0]),
        ((1.0, 1.0, 1.0), (2, 2, 2), 6, [2, 2, 2]),  # 99 % would not do
    ],
)
def test_shares(of, free, count, expected):
    names = "abc"
    found = shared(dict(zip(names, of, strict=True)), dict(zip(names, free, strict=True)), count)
    assert list(found.values()) == expected


def test_normalised_momentum_of_a_constant_gradient_is_the_same_for_all():
    model = nn.Sequential(nn.Linear(5, 2, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    snfs = SNFS(model, optimizer, 0.5, total_steps=100, every=50, normalise=True)
    x = torch.tensor([[0.1, 1.0, 10.0, -3.0, 0.5]])
    for step in range(1, 5):
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
        snfs.step()
        found = snfs.momentum(snfs.layers["0.weight"])
        assert torch.allclose(found, torch.full((10,), (1 - 0.9**step) / (1 - 0.999**step) ** 0.5))


@pytest.mark.parametrize("fused", [False, True])
def test_the_scale_of_the_loss_is_taken_out(fused):
    found = []
    for scale in (1.0, 2.0**10):
        model = build(MLP)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
        snfs = made("snfs", model, optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for step in range(STEPS):
            optimizer.zero_grad()
            scaler.scale(losses(model, step)).backward()
            scaler.step(optimizer)
            scaler.update()
            snfs.step()
        found.append((snfs.masks, snfs.averages))
    assert found[0][0] == found[1][0]
    assert same_tensors(found[0][1], found[1][1])


def test_a_skipped_step_leaves_no_trace_in_the_averages():
    model = build(MLP)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    snfs = made("snfs", model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for step in range(STEPS):
        optimizer.zero_grad()
        scaler.scale(losses(model, step) * (inf if step % 3 == 0 else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
        snfs.step()
        assert all(average.isfinite().all() for average in snfs.averages.values())
        assert snfs.masks.kept == round(0.3 * snfs.masks.total)


@pytest.mark.parametrize("stop", [3, 7])
def test_it_goes_on_with_its_averages(stop):
    whole, _, expected = trained("snfs", normalise=True)
    model, optimizer, snfs = trained("snfs", normalise=True, steps=stop)
    saved = snfs.state_dict()
    assert {f"{kind}/2.weight" for kind in ("average", "square")} <= saved.keys()
    other = build(MLP, seed=5)
    used = OPTIMIZERS["momentum"](other.parameters())
    again = made("snfs", other, used, normalise=True)
    again.load_state_dict(saved)
    take_step(model, optimizer, snfs, stop)  # what was saved is a copy
    assert same_tensors(again.averages, {n: saved[f"average/{n}"] for n in again.averages})
    for step in range(stop + 1, STEPS):
        take_step(model, optimizer, snfs, step)
    assert snfs.masks == expected.masks
    assert same_tensors(model.state_dict(), whole.state_dict())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"smoothing": 1.0}, r"smoothing is 1\.0; allowed: a number in \[0, 1\)"),
        ({"smoothing": -0.1}, "smoothing is"),
        ({"smoothing": nan}, "smoothing is nan"),
        ({"pattern": "2:4"}, "allowed with SNFS: None"),
    ],
)
def test_what_is_refused(options, words):
    model = build(MLP)
    with pytest.raises(Invalid, match=words):
        made("snfs", model, torch.optim.SGD(model.parameters(), lr=0.1), **options)


def test_lbfgs_is_refused():
    model = build(MLP)
    with pytest.raises(Invalid, match="optimizer is LBFGS"):
        made("snfs", model, torch.optim.LBFGS(model.parameters()))
