import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.core.apply import masks_of
from prunus.core.errors import Invalid
from prunus.sparse_training.tost import rescale_init
from toy import MLP, ConvNet, Residual, Transformer, batch, build, masked

NETS = [MLP, ConvNet, Residual, Transformer]


def batches(kind, count=4, dtype=None):
    return [batch(kind, seed=seed, dtype=dtype) for seed in range(count)]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("kind", NETS)
def test_each_tensor_is_multiplied_by_its_scale_and_masks_stay(kind, optimizer):
    model, masks = masked(kind)
    before = copy.deepcopy(model)
    scales = rescale_init(model, batches(kind), steps=5, lr=0.1, optimizer=optimizer)
    assert list(scales) == [name for name, _ in model.named_parameters()]
    assert any(scale != 1 for scale in scales.values())
    for (name, after), parameter in zip(model.named_parameters(), before.parameters(), strict=True):
        assert scales[name] >= (0 if name.endswith("bias") else 0.01)
        torch.testing.assert_close(after, parameter * scales[name])
        assert torch.equal(after == 0, parameter == 0)
    assert masks_of(model) == masks


@pytest.mark.parametrize("training", [False, True])
def test_nothing_else_changes(training):
    model = build(ConvNet).train(training)
    model.more.train(not training)
    model.head.bias.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    modes = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    head, generator = model.head.bias.clone(), torch.random.get_rng_state()
    scales = rescale_init(model, batches(ConvNet), steps=3)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert "head.bias" not in scales
    assert torch.equal(model.head.bias, head)


def gradient_norm(model, data, order):
    twin = copy.deepcopy(model).train()
    twin.zero_grad()
    sum(F.cross_entropy(twin(x), y) for x, y in data).div(len(data)).backward()
    return torch.cat([p.grad.flatten() for p in twin.parameters()]).norm(order)


def scaled(model, name, factor):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        dict(twin.named_parameters())[name].mul_(factor)
    return twin


@pytest.mark.parametrize(("optimizer", "order"), [("sgd", 2), ("adam", 1)])
def test_the_first_step_goes_down_the_gradients_norm_where_it_is_too_large(optimizer, order):
    model, _ = masked(MLP)  # its gradients are masked by hooks, as in training
    model = model.double()
    data = batches(MLP, dtype=torch.float64)
    scales = rescale_init(copy.deepcopy(model), data, steps=1, gamma=1e-6, optimizer=optimizer)
    for name, scale in scales.items():
        more, less = (gradient_norm(scaled(model, name, factor), data[:2], order) for factor in (1 + 1e-5, 1 - 1e-5))
        assert scale == pytest.approx(1 - 0.01 * float((more - less).sign()))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_first_step_goes_down_the_loss_ahead_where_the_gradient_is_small(optimizer):
    model, _ = masked(MLP)
    model = model.double()
    data = batches(MLP, dtype=torch.float64)
    scales = rescale_init(copy.deepcopy(model), data, steps=1, gamma=1e6, eta=0.2, optimizer=optimizer)
    taken = copy.deepcopy(model)
    sum(F.cross_entropy(taken(x), y) for x, y in data[:2]).div(2).backward()
    gradients = [p.grad for p in taken.parameters()]
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    steps = [0.2 * (g.sign() if optimizer == "adam" else g / norm) for g in gradients]

    def ahead(twin):
        with torch.no_grad():
            for parameter, along in zip(twin.parameters(), steps, strict=True):
                parameter.sub_(along)
            return sum(F.cross_entropy(twin(x), y) for x, y in (data[0], data[2]))

    for name, scale in scales.items():
        more, less = (ahead(scaled(model, name, factor)) for factor in (1 + 1e-5, 1 - 1e-5))
        assert scale == pytest.approx(1 - 0.01 * float((more - less).sign()))


def test_many_steps_are_those_of_an_obvious_loop():
    model = build(MLP).double()
    data = batches(MLP, count=3, dtype=torch.float64)
    start = [p.detach().clone() for p in model.parameters()]
    alpha, least = torch.ones(6, dtype=torch.float64), torch.tensor([0.9, 0.0] * 3, dtype=torch.float64)
    first, second, counts, place = torch.zeros(2, 6).double(), torch.zeros(6).double(), [0, 0], 0

    def loss(weights, x, y):
        hidden = (x @ weights[0].T + weights[1]).relu()
        hidden = (hidden @ weights[2].T + weights[3]).relu()
        return F.cross_entropy(hidden @ weights[4].T + weights[5], y)

    def following():
        nonlocal place
        place += 1
        return data[(place - 1) % 3]

    kinds = []
    for _ in range(12):
        alpha.requires_grad_()
        weights = [a * w for a, w in zip(alpha, start, strict=True)]
        one, two = following(), following()
        gradient = torch.autograd.grad((loss(weights, *one) + loss(weights, *two)) / 2, weights, create_graph=True)
        norm = sum(g.square().sum() for g in gradient).sqrt()
        kind = int(norm > 0.42)
        if not kind:
            moved = [w - 0.1 * (g / norm).detach() for w, g in zip(weights, gradient, strict=True)]
            norm = (loss(moved, *one) + loss(moved, *following())) / 2 / 0.1
        slope = torch.autograd.grad(norm, alpha)[0].clamp(-0.3, 0.3)
        counts[kind] += 1
        first[kind] = 0.9 * first[kind] + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        root = (second / (1 - 0.999 ** sum(counts))).sqrt()
        alpha = alpha.detach() - 0.05 * first[kind] / (1 - 0.9 ** counts[kind]) / (root + 1e-8)
        alpha = torch.maximum(alpha, least)
        kinds.append(kind)
    assert set(kinds) == {0, 1}

    scales = rescale_init(model, data, steps=12, lr=0.05, gamma=0.42, clip=0.3, smallest=0.9)
    torch.testing.assert_close(torch.tensor(list(scales.values())).double(), alpha)


def test_a_network_with_too_large_weights_gets_the_gradient_that_is_allowed():
    model = build(MLP)
    with torch.no_grad():
        model[0].weight.mul_(10)
        model[4].weight.mul_(10)
    data = batches(MLP)
    before = gradient_norm(model, data, 2)
    rescale_init(model, data, lr=0.05)
    assert before > 3
    assert gradient_norm(model, data, 2) < 1.3


def test_tensors_of_zeros_keep_the_scale_one_and_no_scale_is_below_the_smallest():
    model = build(MLP)
    nn.init.zeros_(model[0].bias)
    scales = rescale_init(model, batches(MLP), steps=30, lr=0.5, gamma=1e-6, smallest=0.3)
    assert scales["0.bias"] == 1
    assert min(scale for name, scale in scales.items() if name.endswith("weight")) == pytest.approx(0.3)


def test_only_what_is_named_is_scaled():
    model = build(MLP)
    before = copy.deepcopy(model)
    scales = rescale_init(model, batches(MLP), steps=2, include="*.weight", exclude=["2.*"])
    assert list(scales) == ["0.weight", "4.weight"]
    for name in ("0.bias", "2.weight", "2.bias", "4.bias"):
        assert torch.equal(model.state_dict()[name], before.state_dict()[name])


def test_an_iterator_is_read_over_again_and_no_further_than_needed():
    one, other, read = build(MLP), build(MLP), []
    data = batches(MLP)
    rescale_init(one, data, steps=6)
    rescale_init(other, (read.append(1) or pair for pair in data), steps=6)
    assert len(read) == 4
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    endless = (batch(MLP, seed=seed) for seed in iter(int, 1))
    rescale_init(build(MLP), endless, steps=2)


def test_half_precision_is_scaled_by_what_single_precision_finds():
    model = build(MLP).bfloat16()
    twin = copy.deepcopy(model).float()
    scales = rescale_init(model, batches(MLP), steps=3)
    assert scales == rescale_init(twin, batches(MLP), steps=3)
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0; allowed: an integer of at least 1"),
        ({"lr": 0}, "lr is 0; allowed: a number above 0"),
        ({"eta": -1}, "eta is -1"),
        ({"gamma": float("nan")}, "gamma is nan"),
        ({"clip": "1"}, "clip is '1'"),
        ({"smallest": 2}, r"smallest is 2; allowed: a number in \(0, 1\]"),
        ({"optimizer": "adamm"}, "optimizer is 'adamm'; did you mean 'adam'"),
        ({"include": "9.*"}, "include='9.\\*' matches no trained parameter"),
        ({"exclude": "*"}, "no parameter of this MLP is left to scale"),
        ({"batches": []}, "batches is empty"),
        ({"batches": iter([])}, "batches is empty"),
        ({"batches": torch.zeros(3, 6)}, "batches is of type Tensor"),
        ({"batches": [(torch.zeros(3, 5), torch.zeros(3).long())]}, "MLP does not take"),
        (
            {"batches": [(torch.full((3, 6), float("inf")), torch.zeros(3).long())]},
            "the loss or its gradient is not finite",
        ),
        ({"loss": lambda outputs, targets: torch.tensor(1.0)}, "the loss depends on no trained parameter"),
    ],
)
def test_bad_input_changes_nothing(options, message):
    model = build(MLP)
    with pytest.raises(Invalid, match=message):
        rescale_init(model, **{"batches": batches(MLP), "steps": 2, **options})
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), build(MLP).parameters(), strict=True))
