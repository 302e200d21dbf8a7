"""STR: a training against the same by autograd, masks that follow thresholds, and thresholds in the optimizer."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from prunus.core.apply import masks_of, release
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.sparse_training import STR, Static
from toy import MLP, ConvNet, batch, build
from training import EVERY, STEPS, losses, same_tensors, take_step

OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=1e-1),
}


def made(model, optimizer, **options):
    return STR(model, optimizer, **{"initial": -3.0, "every": EVERY, **options})


def soft(dense, sigma):
    return dense.sign() * torch.relu(dense.abs() - torch.sigmoid(sigma))


@pytest.mark.parametrize("kind", [MLP, ConvNet])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_a_training_is_the_one_that_autograd_makes(kind, optimizer):
    model, twin = build(kind), build(kind)
    used = OPTIMIZERS[optimizer](model.parameters())
    method = made(model, used)
    dense = dict(twin.named_parameters())
    sigmas = {name: nn.Parameter(torch.tensor(-3.0)) for name in method.layers}
    expected = OPTIMIZERS[optimizer]([*dense.values(), *sigmas.values()])
    moved = 0
    for step in range(STEPS):
        x, y = batch(kind, seed=step)
        weights = {name: soft(p, sigmas[name]) if name in sigmas else p for name, p in dense.items()}
        expected.zero_grad()
        nn.functional.cross_entropy(functional_call(twin, weights, (x,)), y).backward()
        expected.step()
        before = method.masks
        take_step(model, used, method, step, kind)
        moved += not all(torch.equal(before[name], mask) for name, mask in method.masks.items())
        for name, sigma in sigmas.items():
            assert torch.allclose(method.sigmas[name], sigma, atol=1e-5)
            assert torch.allclose(method.dense[name], dense[name], atol=1e-5)
            assert torch.allclose(model.get_parameter(name), soft(dense[name], sigma), atol=1e-5)
    assert moved


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_masks_are_what_lies_above_the_thresholds_at_each_step(optimizer):
    model = build(ConvNet)
    keys = list(model.state_dict())
    used = OPTIMIZERS[optimizer](model.parameters())
    method = made(model, used)
    masks = method.masks
    for step in range(STEPS + 1):
        for name, dense in method.dense.items():
            threshold = torch.tensor(method.thresholds[name])
            assert torch.equal(method.masks[name], dense.abs() > threshold)
            assert torch.equal(model.get_parameter(name), soft(dense, method.sigmas[name]))
        assert masks_of(model) == method.masks
        if step < STEPS:
            used.zero_grad()
            losses(model, step, kind=ConvNet).backward()
            assert all(not p.grad[~method.masks[n]].any() for n, p in model.named_parameters() if n in method.masks)
            used.step()
            method.step()
    assert list(model.state_dict()) == keys
    for name, mask in method.masks.items():  # the records add up
        change = sum(update.grown[name] - update.dropped[name] for update in method.updates)
        assert int(mask.sum()) - int(masks[name].sum()) == change
    assert [update.step for update in method.updates] == list(range(EVERY, STEPS + 1, EVERY))
    assert any(sum(update.dropped.values()) for update in method.updates)
    assert method.updates[-1].kept == {layer.name: layer.kept for layer in method.masks.layers}


def test_far_below_0_only_weight_decay_moves_a_threshold():
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    method = STR(model, optimizer)
    assert method.masks.density == 1
    for step in range(10):
        take_step(model, optimizer, method, step)
    assert method.masks.density == 1
    for sigma in method.sigmas.values():
        assert sigma.item() == pytest.approx(-3200 * (1 - 0.1 * 0.01) ** 10)


def test_a_weight_that_is_absent_may_come_back():
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.05, 1.0]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    method = made(model, optimizer, initial=-2.0)  # a threshold of 0.119
    assert method.masks["0.weight"].tolist() == [[False, True]]
    (-10 * model(torch.tensor([[1.0, 1.0]]))).sum().backward()  # the second is to grow: so σ is to fall
    optimizer.step()
    method.step()
    sigma = -2.0 - 10 * 0.11920292 * (1 - 0.11920292)
    assert method.sigmas["0.weight"].item() == pytest.approx(sigma)
    assert method.masks["0.weight"].tolist() == [[True, True]]
    assert float(model[0].weight[0, 0].detach()) == pytest.approx(0.05 - method.thresholds["0.weight"])


def test_the_densities_it_learned_serve_others():
    model = build(MLP)
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    method = made(model, optimizer, initial=-3.0)
    for step in range(STEPS):
        take_step(model, optimizer, method, step % 2)
    learned = {layer.name: layer.kept for layer in method.masks.layers}
    other = build(MLP, seed=1)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    static = Static(other, optimizer, method.masks.density, scope=lambda *_: learned)
    assert static.started == learned


# In the optimizer


def test_thresholds_join_the_groups_of_their_weights():
    model = build(MLP)
    groups = [
        {"params": model[0].parameters(), "lr": 0.5},
        {"params": [*model[2].parameters(), *model[4].parameters()]},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)  # made before: it still fits
    method = made(model, optimizer)
    assert [len(group["params"]) for group in optimizer.param_groups] == [3, 6]
    assert optimizer.param_groups[0]["params"][-1] is method.sigmas["0.weight"]
    take_step(model, optimizer, method, 0)
    schedule.step()
    method.remove()
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 4]


@pytest.mark.parametrize("named", [False, True])
def test_thresholds_in_a_group_of_their_own(named):
    model = build(MLP)
    optimizer = torch.optim.AdamW(model.named_parameters() if named else model.parameters(), lr=0.1, weight_decay=0.3)
    method = made(model, optimizer, weight_decay=0.0)
    assert optimizer.param_groups[1]["params"] == list(method.sigmas.values())
    assert (optimizer.param_groups[1]["lr"], optimizer.param_groups[1]["weight_decay"]) == (0.1, 0.0)
    if named:
        assert optimizer.param_groups[1]["param_names"] == [f"{name}/sigma" for name in method.sigmas]
    take_step(model, optimizer, method, 0)
    assert all(sigma in optimizer.state for sigma in method.sigmas.values())
    method.remove()
    assert len(optimizer.param_groups) == 1
    assert not any(sigma in optimizer.state for sigma in method.sigmas.values())
    take_step(model, optimizer, _Nothing(), 1)
    assert masks_of(model) == method.masks
    release(model)


class _Nothing:
    def step(self):
        pass


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("weight_decay", [None, 0.5])
def test_it_goes_on_bit_for_bit_between_records(weight_decay, named):
    def begun(seed):
        model = build(MLP, seed=seed)
        optimizer = torch.optim.AdamW(model.named_parameters() if named else model.parameters(), lr=0.05)
        return model, optimizer, made(model, optimizer, weight_decay=weight_decay)

    whole, half, other = begun(0), begun(0), begun(7)
    for (model, optimizer, method), stop in ((whole, STEPS), (half, 17)):
        for step in range(stop):
            take_step(model, optimizer, method, step)
    for ours, saved in zip(other, half, strict=True):
        ours.load_state_dict(deepcopy(saved.state_dict()))
    for step in range(17, STEPS):
        take_step(*other, step)
    assert other[2].updates == whole[2].updates
    assert other[2].thresholds == whole[2].thresholds
    assert same_tensors(other[0].state_dict(), whole[0].state_dict())
    assert same_tensors(other[2].dense, whole[2].dense)


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_changes_nothing_but_what_it_skips(fused):
    found = []
    for scaled in (False, True):
        model = build(MLP)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
        method = made(model, optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=scaled)
        for step in range(STEPS):
            if scaled and step % 7 == 3:
                before = method.thresholds
                optimizer.zero_grad()
                scaler.scale(losses(model, step) * float("inf")).backward()
                scaler.step(optimizer)
                scaler.update(2.0**8)
                assert method.thresholds == before
            optimizer.zero_grad()
            scaler.scale(losses(model, step)).backward()
            scaler.step(optimizer)
            scaler.update(2.0**8 if scaled else None)
            method.step()
        found.append(method)
    assert found[0].thresholds == pytest.approx(found[1].thresholds, rel=1e-3)
    for name, dense in found[0].dense.items():
        assert torch.allclose(dense, found[1].dense[name], atol=1e-3)


def test_gradients_that_are_accumulated_and_clipped():
    """The gradient of σ is that of the weights as they are when the optimizer takes its step."""
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    method = made(model, optimizer)
    for step in range(STEPS):
        optimizer.zero_grad()
        for part in range(3):
            (losses(model, 3 * step + part) / 3).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        expected = {}
        for name, threshold in method.thresholds.items():
            weight, sigma = model.get_parameter(name), method.sigmas[name].item()
            slope = threshold * (1 - threshold)
            expected[name] = sigma + 0.2 * slope * (weight.grad * weight.detach().sign()).sum().item()
        optimizer.step()
        method.step()
        assert {name: sigma.item() for name, sigma in method.sigmas.items()} == pytest.approx(expected, rel=1e-6)


def test_a_moving_average_holds_the_same_masks():
    model = build(MLP)
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    method = made(model, optimizer)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    method.follow(average)
    for step in range(STEPS):
        take_step(model, optimizer, method, step)
        average.update_parameters(model)
        for name, mask in method.masks.items():
            assert not average.module.get_parameter(name)[~mask].any()


def test_weights_written_between_steps_count():
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = made(model, optimizer)
    take_step(model, optimizer, method, 0)
    with torch.no_grad():
        model[0].weight.mul_(2)
    expected, mask = model[0].weight.detach().clone(), method.masks["0.weight"]
    take_step(model, optimizer, method, 1)
    assert torch.allclose(model[0].weight, expected, atol=1e-6)
    assert torch.equal(method.masks["0.weight"], mask)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"density": 0.3}, r"density is 0.3; allowed with STR: None"),
        ({"start": Masks({"0.weight": torch.ones(8, 6)})}, r"start is given; allowed with STR: None"),
        ({"pattern": "2:4"}, r"pattern is '2:4'; allowed with STR: None"),
        (
            {"initial": 3.0},
            r"initial is 3, a threshold of 0.953, which no weight of 0.weight is above",
        ),
        ({"initial": float("nan")}, r"initial is nan; allowed: a finite number"),
        ({"weight_decay": -0.1}, r"weight_decay is -0.1; allowed: None, or a number of at least 0"),
        ({"every": 0}, r"every is 0; allowed: a whole number of at least 1"),
    ],
)
def test_what_it_refuses(options, says):
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with pytest.raises(Invalid, match=says):
        made(model, optimizer, **options)
    assert same_tensors(before, dict(model.named_parameters()))
    assert len(optimizer.param_groups[0]["params"]) == 6


@pytest.mark.parametrize("lost", ["sigmas", "dense/0.weight", "recorded/2.weight"])
def test_a_state_that_lacks_something_is_refused(lost):
    model = build(MLP)
    method = made(model, torch.optim.SGD(model.parameters(), lr=0.1))
    state = {name: value for name, value in method.state_dict().items() if name != lost}
    with pytest.raises(Invalid, match=lost):
        method.load_state_dict(state)
