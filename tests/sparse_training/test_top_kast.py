"""Top-KAST: a training against the same written out, what it never touches, and dense weights behind sparse ones."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from prunus.analysis import costs
from prunus.core.apply import masks_of, release
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.sparse_training import TopKAST
from prunus.sparse_training.flops import flops
from toy import MLP, ConvNet, build
from training import EVERY, OPTIMIZERS, STEPS, losses, moments_of, same_tensors, take_step


def made(model, optimizer, density=0.3, **options):
    return TopKAST(model, optimizer, density, **{"every": EVERY, **options})


def largest(values, count, among=None):
    """Positions of the largest |values|, of equal ones the first, by sorting a list."""
    flat = values.flatten().abs().tolist()
    order = sorted(range(len(flat)), key=lambda i: (i not in (among or ()), -flat[i], i))
    return set(order[:count])


def as_mask(positions, like):
    mask = torch.zeros(like.numel(), dtype=torch.bool)
    mask[sorted(positions)] = True
    return mask.view(like.shape)


def wider(method):
    return {name: layer.held.keep.gradients.mask for name, layer in method.layers.items()}


class WrittenOut:
    """Top-KAST with every weight a dense one, and the gradients made by hand."""

    def __init__(self, kind, optimizer, counts, wider, penalty):
        self.model, self.counts, self.wider, self.penalty = build(kind), counts, wider, penalty
        self.optimizer = optimizer(self.model.parameters())
        self.choose()

    def choose(self):
        named = dict(self.model.named_parameters())
        self.a = {n: as_mask(largest(named[n], k), named[n]) for n, k in self.counts.items()}
        before = getattr(self, "b", None)
        self.b = {n: as_mask(largest(named[n], k), named[n]) for n, k in self.wider.items()}
        for n in before or ():
            for moment in moments_of(self.optimizer, named[n]):
                moment[before[n] != self.b[n]] = 0

    def step(self, step, kind):
        twin = deepcopy(self.model)
        with torch.no_grad():
            for n, mask in self.a.items():
                twin.get_parameter(n).mul_(mask)
        twin.zero_grad()
        losses(twin, step, kind=kind).backward()
        before = {n: self.model.get_parameter(n).detach().clone() for n in self.a}
        for n, parameter in self.model.named_parameters():
            parameter.grad = twin.get_parameter(n).grad
            if n in self.a:
                factor = torch.where(self.a[n], 1.0, parameter.numel() / self.counts[n])
                parameter.grad = (parameter.grad + self.penalty * factor * before[n]) * self.b[n]
        self.optimizer.step()
        with torch.no_grad():
            for n, mask in self.b.items():
                self.model.get_parameter(n)[~mask] = before[n][~mask]


@pytest.mark.parametrize("kind", [MLP, ConvNet])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
def test_a_training_is_the_one_written_out(kind, optimizer):
    model = build(kind)
    used = OPTIMIZERS[optimizer](model.parameters())
    method = made(model, used, penalty=0.01)
    expected = WrittenOut(kind, OPTIMIZERS[optimizer], method.started, method.gradient_counts, 0.01)
    moved = 0
    for step in range(1, STEPS + 1):
        expected.step(step, kind)
        take_step(model, used, method, step, kind)
        if step % EVERY == 0:
            expected.choose()
            moved += sum(len(change.grown) for change in method.latest.values())
        assert same_tensors(dict(method.masks), expected.a)
        assert same_tensors(wider(method), expected.b)
        for n, dense in method.dense.items():
            assert torch.allclose(dense, expected.model.get_parameter(n), rtol=1e-4, atol=1e-6)
            assert torch.equal(model.get_parameter(n), torch.where(expected.a[n], dense, 0))
    assert moved or optimizer == "sgd"
    assert [update.step for update in method.updates] == list(range(EVERY, STEPS + 1, EVERY))


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("every", [1, EVERY])
def test_what_stays_so_at_each_step(optimizer, every):
    model = build(ConvNet)
    keys, kind = list(model.state_dict()), type(model)
    used = OPTIMIZERS[optimizer](model.parameters())
    method = made(model, used, every=every, backward=0.6, scope="uniform")
    total = method.masks.total
    trained_though_unused = 0
    for step in range(STEPS):
        before, b, a = {n: t.clone() for n, t in method.dense.items()}, wider(method), method.masks
        used.zero_grad()
        losses(model, step, kind=ConvNet).backward()
        for n, layer in method.layers.items():
            assert not layer.weight.grad[~b[n]].any()
            trained_though_unused += int(layer.weight.grad[b[n] & ~a[n]].count_nonzero())
        used.step()
        for n, layer in method.layers.items():  # before the method's own step
            assert torch.equal(method.dense[n][~b[n]], before[n][~b[n]])
            assert torch.equal(layer.weight, torch.where(a[n], method.dense[n], 0))
        method.step()
        masks, b = method.masks, wider(method)
        assert masks.kept == round(0.3 * total)
        assert sum(int(mask.sum()) for mask in b.values()) == round(0.6 * total)
        assert method.gradient_counts == {n: int(mask.sum()) for n, mask in b.items()}
        for n, mask in masks.items():
            assert not (mask & ~b[n]).any()
            assert torch.equal(method.layers[n].weight, torch.where(mask, method.dense[n], 0))
        assert masks_of(model) == masks
    assert trained_though_unused
    assert (list(model.state_dict()), type(model)) == (keys, kind)


def test_it_begins_with_the_largest_weights():
    dense = build(MLP)
    model = build(MLP)
    method = made(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for n, mask in method.masks.items():
        weight = dense.get_parameter(n)
        assert torch.equal(mask, as_mask(largest(weight, method.started[n]), weight))
        assert torch.equal(method.dense[n], weight)
    assert sum(method.gradient_counts.values()) == round(2 * method.masks.density * method.masks.total)


def test_it_begins_with_given_masks():
    model = build(MLP)
    start = Masks.random(model, 0.4, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = TopKAST(model, optimizer, start=start, every=EVERY)
    assert method.masks == start
    for n, mask in wider(method).items():
        rest = largest(method.dense[n], method.gradient_counts[n], set(start[n].flatten().nonzero().flatten().tolist()))
        assert torch.equal(mask, as_mask(rest, mask))
    for step in range(EVERY):
        take_step(model, optimizer, method, step)
    assert method.masks.kept == start.kept
    assert method.masks != start


def test_a_pattern_holds_in_what_the_network_has():
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    method = TopKAST(model, optimizer, 0.5, pattern="2:4", exclude="2.weight", backward=0.7, every=1)
    first = method.masks
    for step in range(STEPS):
        x = torch.randn(9, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(9) % 3).backward()
        optimizer.step()
        method.step()
        mask = method.masks["0.weight"]
        assert (mask.view(6, 2, 4).sum(2) == 2).all()
        assert not (mask & ~wider(method)["0.weight"]).any()
    assert method.masks != first


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_changes_nothing_but_what_it_skips(fused):
    found = []
    for scaled in (False, True):
        model = build(MLP)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
        method = made(model, optimizer, penalty=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=scaled)
        for step in range(STEPS):
            if scaled and step % 7 == 3:
                before = {n: t.clone() for n, t in method.dense.items()}
                optimizer.zero_grad()
                scaler.scale(losses(model, step) * float("inf")).backward()
                scaler.step(optimizer)
                scaler.update(2.0**8)
                assert same_tensors(before, method.dense)
            optimizer.zero_grad()
            scaler.scale(losses(model, step)).backward()
            scaler.step(optimizer)
            scaler.update(2.0**8 if scaled else None)
            method.step()
        found.append(method)
    assert found[0].masks == found[1].masks
    for n, dense in found[0].dense.items():
        assert torch.allclose(dense, found[1].dense[n], atol=1e-6)


def test_closures_and_optimizers_that_inherit_their_step_do_as_the_plain_loop():
    class Own(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    found = []
    for kind, closes in ((torch.optim.SGD, False), (torch.optim.SGD, True), (Own, False), (Own, True)):
        model = build(MLP)
        optimizer = kind(model.parameters(), lr=0.1, momentum=0.9)
        method = made(model, optimizer, penalty=0.1)
        for step in range(STEPS):

            def closure(step=step, model=model, optimizer=optimizer):
                optimizer.zero_grad()
                loss = losses(model, step)
                loss.backward()
                return loss

            if closes:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
            method.step()
        found.append(method)
    assert all(same_tensors(found[0].dense, other.dense) for other in found[1:])


def test_weights_written_between_steps_count():
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = made(model, optimizer)
    for step in range(2):
        take_step(model, optimizer, method, step)
    before, mask = method.dense["0.weight"].clone(), method.masks["0.weight"]
    with torch.no_grad():
        model[0].weight.mul_(2)
    take_step(model, optimizer, method, 2)
    assert torch.equal(method.dense["0.weight"], torch.where(mask, 2 * before, before))

    loaded = build(MLP, seed=5)
    model.load_state_dict(loaded.state_dict())
    assert torch.equal(model[0].weight, torch.where(mask, loaded[0].weight, 0))
    losses(model, 3).backward()
    optimizer.step()
    assert torch.equal(method.dense["0.weight"], loaded[0].weight)


def test_a_moving_average_and_a_copy():
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    method = made(model, optimizer, every=1)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    method.follow(average)
    for step in range(STEPS):
        take_step(model, optimizer, method, step)
        average.update_parameters(model)
        for n, mask in method.masks.items():
            assert not average.module.get_parameter(n)[~mask].any()
    copy, before = deepcopy(model), method.masks
    take_step(copy, torch.optim.SGD(copy.parameters(), lr=0.1), _Nothing(), 0)
    assert masks_of(copy) == before


class _Nothing:
    def step(self):
        pass


def test_it_goes_on_bit_for_bit_between_updates():
    found = []
    for stop in (STEPS, 17):
        model = build(MLP)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        method = made(model, optimizer, backward=0.5)
        for step in range(stop):
            take_step(model, optimizer, method, step)
        found.append((model, optimizer, method))
    other = build(MLP, seed=8)
    used = torch.optim.AdamW(other.parameters(), lr=1e-2)
    again = made(other, used, backward=0.7)
    again.load_state_dict(found[1][2].state_dict())
    other.load_state_dict(found[1][0].state_dict())
    used.load_state_dict(found[1][1].state_dict())
    for step in range(17, STEPS):
        take_step(other, used, again, step)
    whole, _, method = found[0]
    assert again.updates == method.updates
    assert again.gradient_counts == method.gradient_counts
    assert same_tensors(wider(again), wider(method))
    assert same_tensors(again.dense, method.dense)
    assert same_tensors(other.state_dict(), whole.state_dict())


def test_its_state_is_a_copy():
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = made(model, optimizer)
    state = method.state_dict()
    before = {n: t.clone() for n, t in state.items() if torch.is_tensor(t)}
    take_step(model, optimizer, method, 0)
    assert same_tensors(before, {n: t for n, t in state.items() if torch.is_tensor(t)})


def test_removed_only_what_the_network_has_is_trained():
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    method = made(model, optimizer)
    for step in range(EVERY):
        take_step(model, optimizer, method, step)
    masks, dense = method.masks, {n: t.clone() for n, t in method.dense.items()}
    method.remove()
    for step in range(EVERY):
        take_step(model, optimizer, _Nothing(), step)
    assert masks_of(model) == masks
    assert all(not p.grad[~masks[n]].any() for n, p in model.named_parameters() if n in masks)
    assert same_tensors(method.dense, dense)


def test_masks_that_were_taken_away_are_noticed():
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = made(model, optimizer)
    take_step(model, optimizer, method, 0)
    release(model)
    with pytest.raises(Invalid, match=r"the mask of 0.weight was taken away or replaced: make a new TopKAST"):
        take_step(model, optimizer, method, 1)


def test_its_flops_are_two_products_of_a_and_one_of_b():
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = made(model, optimizer, backward=0.5)
    for step in range(STEPS):
        take_step(model, optimizer, method, step)
    found = flops(method, costs(model, inputs=torch.ones(1, 6)))
    a, b = method.masks.kept, sum(method.gradient_counts.values())
    assert found.training == pytest.approx(2 * (2 * a + b))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"backward": 0.2}, r"backward is 0.2; allowed: from the density, 0.304, to 1"),
        ({"backward": 1.5}, r"backward is 1.5; allowed: a number in \(0, 1\]"),
        ({"penalty": -1.0}, r"penalty is -1.0; allowed: a number of at least 0"),
        ({"penalty": float("nan")}, r"penalty is nan"),
        ({"every": 0}, r"every is 0; allowed: a whole number of at least 1"),
        ({"density": None}, r"density is None; allowed"),
        ({"pattern": "2:4"}, r"density is 0.3; allowed with pattern"),
    ],
)
def test_what_it_refuses(options, says):
    model = build(MLP)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with pytest.raises(Invalid, match=says):
        made(model, torch.optim.SGD(model.parameters(), lr=0.1), **options)
    assert same_tensors(before, dict(model.named_parameters()))


def test_optimizers_that_look_more_than_once_are_refused():
    model = build(MLP)
    with pytest.raises(Invalid, match=r"optimizer is LBFGS; allowed with TopKAST: one that takes one gradient a step"):
        made(model, torch.optim.LBFGS(model.parameters()))


@pytest.mark.parametrize(
    ("entry", "value", "says"),
    [
        ("dense/0.weight", None, "dense/0.weight"),
        ("dense/0.weight", torch.zeros(3), r"dense weights of 0.weight of shape \(8, 6\)"),
        ("backward/2.weight", None, "backward/2.weight"),
        (
            "backward/2.weight",
            torch.zeros(7, dtype=torch.uint8),
            "2.weight in the masks that are not in those",
        ),
    ],
)
def test_states_that_are_none(entry, value, says):
    model = build(MLP)
    method = made(model, torch.optim.SGD(model.parameters(), lr=0.1))
    state = method.state_dict() | {entry: value}
    state = {name: each for name, each in state.items() if each is not None}
    dense, masks = {n: t.clone() for n, t in method.dense.items()}, method.masks
    with pytest.raises(Invalid, match=says):
        method.load_state_dict(state)
    assert method.masks == masks
    assert same_tensors(method.dense, dense)
