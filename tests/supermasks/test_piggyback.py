import copy

import pytest
import torch
from supermasking import same
from torch import nn

from prunus.core.apply import masks_of
from prunus.supermasks import Piggyback, bake, scores, supermask, supermask_of
from toy import MODELS, ConvNet, batch, build


def backbone():
    """A network whose norms have seen data and whose norm parameters are not where they start."""
    model = build(ConvNet)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for turn in range(5):
        x, y = batch(ConvNet, seed=turn)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def train(model, steps=5, rate=1e-2, seed=0):
    """Trains scores and head, in training mode."""
    optimizer = torch.optim.Adam([*scores(model), *model.head.parameters()], lr=rate)
    model.train()
    for turn in range(steps):
        x, y = batch(ConvNet, seed=seed + turn)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("ternary", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_it_starts_as_the_backbone_exactly(kind, ternary):
    model = build(kind).eval()
    x = batch(kind)[0]
    with torch.no_grad():
        before = model(x)
        supermask(model, Piggyback(ternary=ternary))
        assert torch.equal(model(x), before)
    assert masks_of(model).density == 1


@pytest.mark.parametrize("ternary", [False, True])
def test_weights_biases_norms_and_their_statistics_are_bit_identical_after_training(ternary):
    model = backbone()
    before = copy.deepcopy(model.state_dict())
    supermask(model, Piggyback(ternary=ternary), train="head.*")
    train(model)
    state = model.state_dict()
    frozen = {key: value for key, value in before.items() if not key.startswith("head.")}
    after = {
        key: state.get(key, state.get(key.replace("weight", "parametrizations.weight.original"))) for key in frozen
    }
    assert same(after, frozen)
    assert "features.1.num_batches_tracked" in frozen
    assert masks_of(model).density < 1
    assert (model.head.weight != before["head.weight"]).all()


def test_norms_use_their_statistics_in_training_too():
    model = backbone()
    supermask(model, Piggyback())
    x = batch(ConvNet, seed=9)[0]
    assert torch.equal(model.train()(x), model.eval()(x))


def test_a_weight_is_kept_above_the_threshold_and_turned_below_nought():
    for ternary, expected in ((False, [0.0, 0.0, 0.0, 0.0, 2.0]), (True, [-2.0, 0.0, 0.0, 0.0, 2.0])):
        model = nn.Linear(5, 1, bias=False)
        with torch.no_grad():
            model.weight.fill_(2.0)
        supermask(model, Piggyback(ternary=ternary, threshold=0.25, first=1.0))
        with torch.no_grad():
            scores(model)[0].copy_(torch.tensor([[-0.1, 0.0, 0.1, 0.25, 0.3]]))
        assert model.weight.tolist() == [expected]
        assert masks_of(model)["weight"].tolist() == [[value != 0 for value in expected]]
        (part,) = supermask_of(model).parts().values()
        assert part.mask.tolist() == [[value / 2 for value in expected]]
        bake(model)
        assert model.weight.tolist() == [expected]


def test_a_bit_takes_at_least_so_many_steps_to_turn():
    model = nn.Linear(4, 1)
    supermask(model, Piggyback())
    (score,) = scores(model)
    optimizer = torch.optim.Adam([score], lr=1e-4)
    for turn in range(55):
        assert (masks_of(model).density == 1) or turn >= 50  # (1e-2 − 5e-3) / 1e-4
        score.grad = torch.ones_like(score)
        optimizer.step()
    assert masks_of(model).density == 0


def test_tasks_know_nothing_of_each_other():
    model = backbone()
    first, second = copy.deepcopy(model), copy.deepcopy(model)
    for each in (first, second):
        supermask(each, Piggyback(), train="head.*")
    train(first)
    x = batch(ConvNet, seed=50)[0]
    before = first.eval()(x)
    train(second, seed=20)
    assert torch.equal(first.eval()(x), before)
    assert masks_of(first) != masks_of(second)
    # and the mask, over a fresh backbone with the head, is the task
    masks, head = masks_of(first), copy.deepcopy(first.head)
    fresh = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, mask in masks.items():
            fresh.get_parameter(name).mul_(mask)
    fresh.head = head
    assert torch.equal(fresh(x), before)


class Task(nn.Module):
    """A head of its own on a body that another task may have too."""

    def __init__(self, body, seed):
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.body.weight = body
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))


def test_two_models_with_one_weight_between_them_have_a_mask_each():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body, x = nn.Parameter(torch.randn(8, 6)), torch.randn(20, 6)
    kept, labels = body.detach().clone(), torch.arange(20) % 3
    tasks = [Task(body, seed) for seed in (1, 2)]
    for task in tasks:
        supermask(task, Piggyback(), train="head.*")
    before = tasks[0](x)
    for _ in range(30):
        optimizer = torch.optim.Adam(scores(tasks[1]), lr=1e-2)
        optimizer.zero_grad()
        nn.functional.cross_entropy(tasks[1](x), labels).backward()
        optimizer.step()
    assert torch.equal(tasks[0](x), before)
    assert masks_of(tasks[0]).density == 1
    assert masks_of(tasks[1]).density < 1
    assert torch.equal(body, kept)


@pytest.mark.parametrize("balance", ["layer", "entry"])
def test_weights_of_nought_have_no_gradient_to_balance(balance):
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.weight.zero_()
    supermask(model, Piggyback(balance=balance))
    model(torch.ones(3, 4)).sum().backward()
    assert not scores(model)[0].grad.any()
