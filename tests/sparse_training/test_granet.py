"""GraNet: one update written out, the density on its way down, and that regrowth leaves it alone."""

from math import cos, floor, pi

import pytest
import torch

from prunus.core.allocation import allot
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.sparse_training import GraNet
from toy import MLP, ConvNet, build
from training import EVERY, OPTIMIZERS, STEPS, losses, made, moments_of, take_step, trained


def dense_gradients(model, step, kind):
    """The gradients of a twin of the model that holds no masks, at the same weights."""
    twin = build(kind)
    twin.load_state_dict(model.state_dict())
    losses(twin, step, kind=kind).backward()
    return {name: p.grad.reshape(-1).tolist() for name, p in twin.named_parameters()}


def cubic(step, end, initial, final):
    return final + (initial - final) * (1 - min(step / end, 1)) ** 3


def expected_update(weights, masks, gradients, keep, fraction):
    """By the words of the paper: the kept and the grown positions of each layer."""
    places = [
        (-abs(weights[n].reshape(-1)[i].item()), order, i, n)
        for order, (n, mask) in enumerate(masks.items())
        for i in mask.reshape(-1).nonzero().squeeze(1).tolist()
    ]
    pruned = sorted(places)[:keep]
    found = {}
    for n, mask in masks.items():
        left = [i for _, _, i, name in pruned if name == n]  # from the largest to the smallest
        k = floor(fraction * len(left))
        kept = left[: len(left) - k]
        free = [i for i in range(mask.numel()) if i not in kept]
        found[n] = set(kept), set(sorted(free, key=lambda i: (-abs(gradients[n][i]), i))[:k])
    return found


@pytest.mark.parametrize("step", [EVERY, 2 * EVERY, 5 * EVERY])  # the last is after pruning
@pytest.mark.parametrize("kind", [MLP, ConvNet])
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_an_update_is_the_one_of_the_paper(kind, optimizer, step):
    model = build(kind)
    used = OPTIMIZERS[optimizer](model.parameters())
    granet = made("granet", model, used, decay="constant")
    for before in range(step - 1):
        take_step(model, used, granet, before, kind)
    masks, weights = granet.masks, {n: p.detach().clone() for n, p in model.named_parameters()}
    moments = {n: [t.clone() for t in moments_of(used, p)] for n, p in model.named_parameters()}
    gradients = dense_gradients(model, step - 1, kind)
    take_step(model, used, granet, step - 1, kind)

    keep = round(cubic(step, 20, 0.5, 0.3) * masks.total)
    expected = expected_update(weights, masks, gradients, keep, 0.5)
    assert granet.updates[-1].step == step
    assert granet.updates[-1].fraction == 0.5
    for name, parameter in model.named_parameters():
        if name not in masks:  # the update takes the place of the step
            assert torch.equal(parameter, weights[name])
            continue
        kept, grown = expected[name]
        new = torch.zeros(parameter.numel(), dtype=torch.bool)
        new[sorted(kept | grown)] = True
        new = new.view_as(parameter)
        assert torch.equal(granet.masks[name], new)
        stays = new & masks[name]
        assert torch.equal(parameter, torch.where(stays, weights[name], 0))
        for moment, was in zip(moments_of(used, parameter), moments[name], strict=True):
            assert torch.equal(moment, torch.where(stays, was, 0))
    assert sum(len(grown) for _, grown in expected.values()) > 5


@pytest.mark.parametrize("initial", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_the_density_is_exact_and_never_rises(optimizer, initial):
    model = build(ConvNet)
    used = OPTIMIZERS[optimizer](model.parameters())
    granet = made("granet", model, used, initial=initial, prune_until=0.45)  # step 18, no multiple of 5
    total = granet.masks.total
    due, kept = [5, 10, 15, 18, 20, 25], round(initial * total)
    assert sum(granet.started.values()) == kept
    for step in range(1, STEPS + 1):
        take_step(model, used, granet, step, ConvNet)
        if step in due:
            kept = round(cubic(step, 18, initial, 0.3) * total)
        masks = granet.masks
        assert masks.kept == kept
        for name, parameter in model.named_parameters():
            if name in masks:
                assert not parameter[~masks[name]].any()
                assert all(not moment[~masks[name]].any() for moment in moments_of(used, parameter))
    assert kept == round(0.3 * total)
    assert [update.step for update in granet.updates] == due
    assert [update.fraction for update in granet.updates] == pytest.approx([0.25 * (1 + cos(pi * s / 30)) for s in due])
    assert granet.updates[-1].kept == granet.updates[-2].kept == granet.updates[-3].kept
    assert sum(granet.updates[-2].grown.values()) > 0


def test_regrowth_leaves_the_numbers_of_weights_alone():
    kept = []
    for fraction in (0.0, 0.5, 1.0):
        _, _, granet = trained("granet", steps=EVERY, fraction=fraction, initial=0.8)
        kept.append(granet.updates[0].kept)
        assert granet.updates[0].kept != granet.started
    assert kept[0] == kept[1] == kept[2]


def test_it_begins_with_a_kernel():
    model = build(ConvNet)
    granet = made("granet", model, torch.optim.SGD(model.parameters(), lr=0.1))
    scores = {name: weight.detach() for name, weight in prunable(model).items()}
    assert granet.started == allot("erk", scores, round(0.5 * granet.masks.total))


def test_it_begins_with_given_masks():
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    start = Masks.random(model, 0.7, scope="uniform", generator=torch.Generator().manual_seed(1))
    granet = made("granet", model, optimizer, start=start)
    assert granet.masks == start
    for step in range(STEPS):
        take_step(model, optimizer, granet, step)
    assert sum(granet.updates[0].kept.values()) == round(cubic(5, 20, start.density, 0.3) * start.total)
    assert granet.masks.kept == round(0.3 * start.total)


@pytest.mark.parametrize("fused", [False, True])
def test_the_end_of_pruning_waits_for_a_step_that_is_taken(fused):
    model = build(MLP)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
    granet = made("granet", model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        scaler.scale(losses(model, step) * (float("inf") if step in (20, 25) else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
        granet.step()
        if step == 20:
            assert len(granet.updates) == 3
    assert [update.step for update in granet.updates] == [5, 10, 15, 20, 25]
    assert granet.steps == STEPS - 2
    assert granet.masks.kept == round(0.3 * granet.masks.total)


def test_a_layer_without_a_gradient_is_pruned_and_grows_nothing():
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    granet = made("granet", model, optimizer, every=1)
    before = granet.masks["0.weight"]
    model[0].weight.requires_grad_(False)
    losses(model, 0).backward()
    optimizer.step()
    granet.step()
    assert not (granet.masks["0.weight"] & ~before).any()
    assert granet.masks.kept == round(cubic(1, 20, 0.5, 0.3) * granet.masks.total)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"initial": 0.2}, r"density is 0\.3 and initial 0\.2; allowed"),
        ({"initial": 1.2}, r"initial is 1\.2; allowed: a number in \(0, 1\]"),
        ({"density": None}, "density is None; allowed"),
        ({"prune_until": 0.75}, r"prune_until is 0\.75, step 30 of 40; allowed: steps 1 to 29"),
        ({"prune_until": 0.01}, "step 0 of 40"),
        ({"prune_until": 0.0}, r"prune_until is 0\.0"),
        ({"pattern": "2:4"}, "allowed with GraNet: None"),
    ],
)
def test_what_is_refused(options, words):
    model = build(MLP)
    before = [p.detach().clone() for p in model.parameters()]
    given = {"density": 0.3, "total_steps": STEPS, "every": EVERY, **options}
    with pytest.raises(Invalid, match=words):
        GraNet(model, torch.optim.SGD(model.parameters(), lr=0.1), **given)
    assert all(torch.equal(p, was) for p, was in zip(model.parameters(), before, strict=True))
