"""SRigL: an update against the same written out unit by unit, its invariants, and the product in condensed form."""

from math import ceil, floor

import pytest
import torch
from torch import nn

from prunus.core.errors import Invalid
from prunus.sparse_training import RigL, SRigL
from prunus.sparse_training.srigl import staying
from toy import MLP, ConvNet, build
from training import EVERY, STEPS, losses, made, moments_of, same_tensors, take_step, trained

OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=1e-1),
}


def expected_update(weight, active, gradient, fraction, budget, gamma, whole):
    """One unit at a time, by the steps of the docstring: the kept and the grown weights, as sets of (unit, input)."""
    w, g, m = (tensor.flatten(1).tolist() for tensor in (weight, gradient, active))
    everywhere = [(u, i) for u in range(len(w)) for i in range(len(w[0]))]
    there = [(u, i) for u, i in everywhere if m[u][i]]
    k = floor(fraction * len(there))
    strongest = set(sorted(there, key=lambda at: (-abs(w[at[0]][at[1]]), at))[: len(there) - k])
    steepest = set(sorted(everywhere, key=lambda at: (-abs(g[at[0]][at[1]]), at))[:k])
    salient = [sum((u, i) in strongest | steepest for i in range(len(w[0]))) for u in range(len(w))]
    fan_in = max(sum(row) for row in m)

    units = [u for u in range(len(w)) if whole or salient[u] >= max(1, gamma * fan_in)]
    least = ceil(budget / len(w[0]))
    if len(units) < least:
        units = sorted(range(len(w)), key=lambda u: (-salient[u], u))[:least]
    fan_in = budget // len(units)

    kept, grown = set(), set()
    for u in units:
        own = sorted((i for i in range(len(w[0])) if (u, i) in strongest), key=lambda i: (-abs(w[u][i]), i))[:fan_in]
        others = sorted((i for i in range(len(w[0])) if i not in own), key=lambda i: (-abs(g[u][i]), i))
        kept |= {(u, i) for i in own}
        grown |= {(u, i) for i in others[: fan_in - len(own)]}
    return kept, grown


def as_mask(places, like):
    mask = torch.zeros(like.shape, dtype=torch.bool).flatten(1)
    for place in places:
        mask[place] = True
    return mask.view(like.shape)


@pytest.mark.parametrize(("kind", "density"), [(MLP, 0.35), (ConvNet, 0.2)])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_updates_are_those_written_out(kind, density, optimizer):
    model = build(kind)
    used = OPTIMIZERS[optimizer](model.parameters())
    srigl = SRigL(model, used, density, total_steps=STEPS, every=EVERY, fraction=0.5, gamma=0.9)
    last, given_up = list(srigl.layers)[-1], 0
    for step in range(1, STEPS + 1):
        due = srigl.schedule.due(step)
        weights = {n: p.detach().clone() for n, p in model.named_parameters()}
        moments = {n: [t.clone() for t in moments_of(used, p)] for n, p in model.named_parameters()}
        masks, units = srigl.masks, srigl.units
        used.zero_grad()
        losses(model, step, kind=kind).backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
        used.step()
        srigl.step()
        if not due:
            assert srigl.masks == masks
            continue
        fraction = srigl.schedule.fraction_at(step)
        for name, parameter in model.named_parameters():
            if name not in masks:
                assert torch.equal(parameter, weights[name])  # the update takes the place of the step
                continue
            given = weights[name], masks[name], gradients[name], fraction, srigl.budgets[name], 0.9, name == last
            kept, grown = expected_update(*given)
            new = as_mask(kept | grown, parameter)
            assert torch.equal(srigl.masks[name], new)
            stays = new & masks[name]
            assert torch.equal(parameter, torch.where(stays, weights[name], 0))
            for moment, was in zip(moments_of(used, parameter), moments[name], strict=True):
                assert torch.equal(moment, torch.where(stays, was, 0))
            given_up += srigl.units[name] < units[name]
    assert given_up


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_a_constant_fan_in_within_the_budget_at_each_step(gamma, optimizer):
    model = build(ConvNet)
    used = OPTIMIZERS[optimizer](model.parameters())
    srigl = SRigL(model, used, 0.3, total_steps=STEPS, every=2, gamma=gamma)
    assert sum(srigl.budgets.values()) == round(0.3 * srigl.masks.total)
    last = list(srigl.layers)[-1]
    for step in range(STEPS):
        take_step(model, used, srigl, step, ConvNet)
        for name, mask in srigl.masks.items():
            each = mask.flatten(1).sum(1)
            units = int(each.count_nonzero())
            assert len(set(each[each > 0].tolist())) == 1
            assert 0 <= srigl.budgets[name] - int(each.sum()) < units
            assert units == srigl.units[name] >= ceil(srigl.budgets[name] / mask[0].numel())
            parameter = srigl.layers[name].weight
            assert not any(t[~mask].any() for t in (parameter, *moments_of(used, parameter)))
        assert srigl.units[last] == 3
        assert srigl.updates == [] or srigl.updates[-1].kept == {r.name: r.kept for r in srigl.masks.layers}


def test_units_that_were_given_up_may_come_back():
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 1, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = {"total_steps": 9, "every": 1, "until": 1.0, "fraction": 0.4, "decay": "constant"}
    srigl = SRigL(model, optimizer, 0.6, scope="uniform", gamma=0.0, **schedule)
    weight = model[0].weight
    assert (srigl.budgets["0.weight"], srigl.masks["0.weight"].sum(1).tolist()) == (7, [2, 2, 2])

    def update(gradient):
        model(torch.ones(2, 4)).sum().backward()
        weight.grad.copy_(torch.tensor(gradient))
        optimizer.step()
        srigl.step()
        return srigl.masks["0.weight"].sum(1).tolist()

    with torch.no_grad():
        weight.copy_(srigl.masks["0.weight"] * torch.tensor([[3.0], [2.0], [0.1]]))
    # k = ⌊0.4 · 6⌋ = 2 weights are not kept, both of the third unit, which has no gradient either: none is salient
    assert update([[9.0, 8.0, 7.0, 6.0], [0.0] * 4, [0.0] * 4]) == [3, 3, 0]
    assert srigl.units["0.weight"] == 2
    assert update([[0.0] * 4, [0.0] * 4, [1.0, 2.0, 3.0, 4.0]]) == [2, 2, 2]
    assert srigl.masks["0.weight"][2].tolist() == [False, False, True, True]


def test_which_units_stay():
    salient = torch.tensor([3, 0, 2, 5, 2])
    assert staying(salient, 2.0, 1).tolist() == [0, 2, 3, 4]
    assert staying(salient, 2.1, 1).tolist() == [0, 3]
    assert staying(salient, 9.0, 1).tolist() == [3]
    assert staying(salient, 9.0, 3).tolist() == [0, 2, 3]  # of equal ones the first


def test_without_giving_up_units_it_is_rigl_with_a_constant_fan_in():
    plain, _, srigl = trained("srigl", ablation=False)
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    start = trained("srigl", steps=0)[2].masks
    rigl = RigL(model, optimizer, start=start, pattern="fan-in", total_steps=STEPS, every=EVERY)
    for step in range(STEPS):
        take_step(model, optimizer, rigl, step)
    assert rigl.updates == srigl.updates != []
    assert rigl.masks == srigl.masks
    assert same_tensors(model.state_dict(), plain.state_dict())


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_layers_that_give_up_no_unit_are_chosen_by_name():
    model = build(MLP)
    kept = SRigL(model, sgd(model), 0.4, total_steps=STEPS, every=1, gamma=1.0, keep_all=["0.*", "2.*"])
    for step in range(STEPS):
        take_step(model, kept.optimizer, kept, step)
    assert (kept.units["0.weight"], kept.units["2.weight"]) == (8, 7)
    assert kept.units["4.weight"] < 3


def test_the_condensed_product_is_the_masked_one():
    model, _, srigl = trained("srigl", "adamw", gamma=1.0, fraction=0.5)
    layer, mask = model[0], srigl.masks["0.weight"]
    units = mask.any(1).nonzero().squeeze(1)
    assert 0 < len(units) < 8
    inputs = torch.stack([mask[u].nonzero().squeeze(1) for u in units])  # I [units, F]
    values = layer.weight.detach()[units].gather(1, inputs)  # V [units, F]
    x = torch.randn(5, 6)
    y = layer.bias.detach().expand(5, 8).clone()
    y[:, units] += (values * x[:, inputs]).sum(2)
    torch.testing.assert_close(y, layer(x).detach(), rtol=0, atol=1e-6)


def test_it_goes_on_bit_for_bit_with_units_given_up():
    options = {"gamma": 1.0, "fraction": 0.5}
    whole, _, method = trained("srigl", "adamw", **options)
    model, optimizer, half = trained("srigl", "adamw", steps=17, **options)
    assert half.units["0.weight"] < 8
    other = build(MLP, seed=4)
    used = torch.optim.AdamW(other.parameters(), lr=1e-2, weight_decay=1e-1)
    again = made("srigl", other, used, density=0.2, **options)  # another budget, until the state is loaded
    again.load_state_dict(half.state_dict())
    other.load_state_dict(model.state_dict())
    used.load_state_dict(optimizer.state_dict())
    for step in range(17, STEPS):
        take_step(other, used, again, step)
    assert again.updates == method.updates
    assert again.budgets == method.budgets
    assert same_tensors(other.state_dict(), whole.state_dict())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pattern": "2:4"}, r"pattern is NM\(n=2, m=4\); allowed with SRigL: 'fan-in'"),
        ({"pattern": None}, r"pattern is None; allowed with SRigL: 'fan-in'"),
        ({"gamma": 1.5}, r"gamma is 1.5; allowed: a number in \[0, 1\]"),
        ({"gamma": True}, r"gamma is True"),
        ({"keep_all": "head*"}, r"keep_all='head\*' matches no masked weight; allowed: 0.weight, 2.weight, 4.weight"),
        ({"density": 0.05}, r"density is .* for .*, less than one of the . weights of each unit"),
    ],
)
def test_what_it_refuses(options, says):
    model = build(MLP)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with pytest.raises(Invalid, match=says):
        SRigL(model, sgd(model), **{"density": 0.4, "total_steps": STEPS, "every": EVERY, **options})
    assert same_tensors(before, dict(model.named_parameters()))
