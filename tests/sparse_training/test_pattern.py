"""Patterns: N:M and constant fan-in, under methods whose topology stays, moves at random, and by the gradient."""

from math import floor

import pytest
import torch
from torch import nn

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.sparse_training import NM, SET, ConstantFanIn, RigL, Static
from prunus.sparse_training.pattern import grouped, output_axis, pattern_of, positions_of, top_of_rows
from training import EVERY, OPTIMIZERS, STEPS, made, moments_of

METHODS = ["static", "set", "rigl"]


class Net(nn.Module):
    """A convolution of 8 input channels in two groups, a transposed one of 8, and a layer of 16 inputs."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(12, 4, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.up(torch.relu(self.conv(x)))
        return self.head(x.amax((2, 3)).repeat(1, 4))


def built():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net()


def learn(model, optimizer, method, step):
    x = torch.randn(6, 8, 3, 3, generator=torch.Generator().manual_seed(step))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), torch.arange(6) % 3).backward()
    optimizer.step()
    method.step()


def counts_of(mask, name, m):
    """How many are kept in each group of m along the inputs, by plain slices."""
    by_unit = mask.transpose(0, 1) if name == "up.weight" else mask
    return torch.stack([by_unit[:, i : i + m].sum(1) for i in range(0, by_unit.shape[1], m)])


def fan_ins(mask, name):
    by_unit = mask.transpose(0, 1) if name == "up.weight" else mask
    return by_unit.flatten(1).sum(1)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("n", [1, 2])
def test_each_group_has_exactly_n_at_each_step(name, optimizer, n):
    model = built()
    used = OPTIMIZERS[optimizer](model.parameters())
    method = made(name, model, used, density=n / 4, pattern=f"{n}:4")
    first = method.masks
    for step in range(STEPS):
        learn(model, used, method, step)
        for layer, mask in method.masks.items():
            assert (counts_of(mask, layer, 4) == n).all()
            parameter = method.layers[layer].weight
            assert not any(t[~mask].any() for t in (parameter, *moments_of(used, parameter)))
    assert (method.masks == first) == (name == "static")
    if name != "static":
        assert sum(sum(update.grown.values()) for update in method.updates) > 0


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("scope", ["erk", "uniform"])
def test_each_unit_has_the_same_fan_in_at_each_step(name, scope):
    model = built()
    used = OPTIMIZERS["adam"](model.parameters())
    method = made(name, model, used, density=0.4, pattern="fan-in", scope=scope)
    first = {layer: fan_ins(mask, layer) for layer, mask in method.masks.items()}
    for layer, each in first.items():
        assert len(each.unique()) == 1
        width = method.layers[layer].size // len(each)
        assert scope == "erk" or int(each[0]) == floor(0.4 * width)
    assert method.masks.density <= 0.4
    for step in range(STEPS):
        learn(model, used, method, step)
        assert all(torch.equal(fan_ins(mask, layer), first[layer]) for layer, mask in method.masks.items())


def test_a_rigl_update_fills_each_group_by_its_gradients():
    """k of the smallest of the whole layer go; each group then grows what it lacks, written out weight by weight."""
    model = built()
    used = OPTIMIZERS["momentum"](model.parameters())
    rigl = RigL(model, used, 0.5, pattern="2:4", total_steps=STEPS, every=EVERY, fraction=0.5)
    for step in range(EVERY - 1):
        learn(model, used, rigl, step)
    weight, mask = model.conv.weight.detach().clone(), rigl.masks["conv.weight"]
    seen = []
    model.conv.weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    learn(model, used, rigl, EVERY - 1)
    gradient = seen[0]
    assert rigl.updates[0].step == EVERY

    there = sorted(map(tuple, mask.nonzero().tolist()), key=lambda at: (-abs(weight[at]), at))
    kept = set(there[: len(there) - floor(rigl.updates[0].fraction * len(there))])
    new = set(kept)
    for o, i, y, x in torch.cartesian_prod(*map(torch.arange, (12, 1, 3, 3))).tolist():
        group = [(o, 4 * i + j, y, x) for j in range(4)]
        lacking = 2 - sum(at in kept for at in group)
        new |= set(sorted((at for at in group if at not in kept), key=lambda at: (-abs(gradient[at]), at))[:lacking])
    assert new == set(map(tuple, rigl.masks["conv.weight"].nonzero().tolist()))
    assert torch.equal(model.conv.weight, torch.where(rigl.masks["conv.weight"] & mask, weight, 0))


def test_groups_lie_along_the_inputs():
    weight = torch.arange(2 * 8 * 3).view(2, 8, 3)
    assert grouped(weight, 0, 4)[0].tolist() == [0, 3, 6, 9]  # the first four input channels at the first place
    assert grouped(weight, 0, 24)[1].tolist() == list(range(24, 48))
    assert grouped(weight.transpose(0, 1), 1, 4)[0].tolist() == [0, 3, 6, 9]


@pytest.mark.parametrize(
    ("shape", "axis", "width"), [((6, 8), 0, 4), ((8, 6), 1, 2), ((3, 4, 5), 0, 20), ((4, 6, 2), 1, 4)]
)
def test_positions_are_those_of_the_groups(shape, axis, width):
    values = torch.randperm(torch.Size(shape).numel()).view(shape)
    positions = positions_of(values.shape, axis, width, values.device)
    assert torch.equal(values.take(positions), grouped(values, axis, width))
    assert positions.flatten().sort().values.tolist() == list(range(values.numel()))


def test_of_equal_scores_the_first_are_on_top():
    scores = torch.tensor([[1.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    assert top_of_rows(scores, 2).tolist() == [[False, True, True, False], [True, True, False, False]]
    assert top_of_rows(torch.zeros(2, 5000), 7).nonzero()[:, 1].tolist() == 2 * list(range(7))


@pytest.mark.parametrize("each", [0, 1, 3, 8, 9])
@pytest.mark.parametrize("values", [2, 5, 1000])
def test_the_top_of_each_row_is_that_of_a_stable_sort(each, values):
    scores = torch.randint(values, (40, 9), generator=torch.Generator().manual_seed(values)).float()
    expected = torch.zeros(40, 9, dtype=torch.bool)
    for row, kept in zip(scores.tolist(), expected, strict=True):
        kept[sorted(range(9), key=lambda i: -row[i])[:each]] = True
    assert torch.equal(top_of_rows(scores, each), expected)


def test_names_of_patterns():
    assert pattern_of("2:4") == NM(2, 4) == NM()
    assert pattern_of("fan-in") == ConstantFanIn()
    assert pattern_of(None) is None
    assert pattern_of(NM(1, 8)) == NM(1, 8)
    layers = nn.Linear(2, 2), nn.Conv1d(2, 2, 1), nn.ConvTranspose1d(2, 2, 1)
    assert [output_axis(layer) for layer in layers] == [0, 0, 1]


def test_a_fan_in_is_never_above_the_density():
    pattern = ConstantFanIn()
    assert [pattern.each("w", 10, d) for d in (0.1, 0.19, 0.2, 0.7, 1.0)] == [1, 1, 2, 7, 10]
    assert pattern.each("w", 10, 3 * 0.1) == 3
    assert pattern.each("w", 3, 1 / 3) == 1


def test_masks_of_the_user_have_to_have_the_pattern():
    model = built()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    good = Static(model, optimizer, 0.5, pattern="2:4").masks
    assert SET(model, optimizer, start=good, pattern="2:4", total_steps=STEPS, every=EVERY).masks == good
    lacking = good["head.weight"].clone()
    lacking[0, lacking[0].nonzero()[0]] = False
    bad = Masks({**good, "head.weight": lacking})
    with pytest.raises(Invalid, match=r"1 to 2 weights in the groups of head.weight; allowed with the pattern: 2 in"):
        Static(model, optimizer, start=bad, pattern="2:4")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"pattern": "2:5", "density": 0.4},
            r"pattern is '2:5', and conv.weight has 4 inputs, no multiple of 5; allowed",
        ),
        ({"pattern": "2:4", "density": 0.4}, r"density is 0.4; allowed with pattern '2:4': 0.5"),
        ({"pattern": "0:4", "density": 0.5}, r"pattern is '0:4'; allowed: 'n:m' with 1 ≤ n ≤ m"),
        ({"pattern": "3:2", "density": 0.5}, r"pattern is '3:2'"),
        ({"pattern": "blocks", "density": 0.5}, r"pattern is 'blocks'; allowed: none, 'n:m' as '2:4', or 'fan-in'"),
        ({"pattern": 24, "density": 0.5}, r"pattern is 24"),
        ({"pattern": "fan-in", "density": 0.01}, r"density is .* for .*weight, less than one of the \d+ weights"),
    ],
)
@pytest.mark.parametrize("name", METHODS)
def test_what_is_refused(name, options, says):
    model = built()
    before = model.conv.weight.detach().clone()
    with pytest.raises(Invalid, match=says):
        made(name, model, OPTIMIZERS["sgd"](model.parameters()), **options)
    assert torch.equal(model.conv.weight, before)
