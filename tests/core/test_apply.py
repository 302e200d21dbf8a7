import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from prunus.core.apply import apply, masks_of, release
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from toy import (
    MLP,
    MODELS,
    OPTIMIZERS,
    ConvNet,
    Tied,
    batch,
    build,
    gradient_is_sparse,
    is_sparse,
    masked,
    random_masks,
    step,
    train,
)


class Noisy(torch.optim.SGD):
    """Moves every weight at random, and leaves an infinite and a NaN one behind."""

    def step(self, closure=None):
        super().step(closure)
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.add_(torch.randn_like(parameter))
                parameter.view(-1)[:2] = torch.tensor([torch.inf, torch.nan])


# Held through steps


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("kind", MODELS)
def test_zero_at_once_and_after_every_step_while_the_rest_learns(kind, make):
    model, masks = masked(kind)
    assert is_sparse(model, masks)
    start = copy.deepcopy(dict(model.named_parameters()))
    optimizer = make(model.parameters())
    for turn in range(4):
        step(model, optimizer, batch(kind, seed=turn))
        assert gradient_is_sparse(model, masks)
        assert is_sparse(model, masks)
    assert all((p[masks[n]] != start[n][masks[n]]).any() for n, p in model.named_parameters() if n in masks)
    assert masks_of(model) == masks


def test_kept_weights_keep_every_bit_and_other_parameters_are_left_alone():
    model = build(ConvNet)
    before = copy.deepcopy(model.state_dict())
    masks = random_masks(model)
    apply(model, masks)
    for name, value in model.state_dict().items():
        kept = masks[name] if name in masks else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(value[kept], before[name][kept])


def test_momentum_from_before_the_mask_and_a_gradient_that_is_there_already():
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for turn in range(3):
        step(model, optimizer, batch(MLP, seed=turn))
    masks = random_masks(model)
    apply(model, masks)
    assert gradient_is_sparse(model, masks)
    for _ in range(3):  # the stale momentum alone would move the weights
        optimizer.step()
        assert is_sparse(model, masks)


def test_an_optimizer_that_moves_every_weight_and_leaves_nan_and_infinity():
    model = build(MLP)
    masks = Masks({"0.weight": torch.arange(48).reshape(8, 6) >= 2})  # drops the two that turn inf and NaN
    apply(model, masks)
    optimizer = Noisy([model[0].weight], lr=0.1)
    for turn in range(2):
        with torch.random.fork_rng(devices=[]):
            step(model, optimizer, batch(MLP, seed=turn))
        assert torch.equal(model[0].weight.view(-1)[:2], torch.zeros(2))
        assert model[0].weight.isfinite().all()


def test_nan_and_infinity_in_a_masked_gradient_do_not_survive():
    weight = nn.Parameter(torch.ones(4))
    model = nn.ParameterList([weight])
    apply(model, {"0": torch.tensor([True, False, False, True])})
    (weight * torch.tensor([1.0, torch.nan, torch.inf, 2.0])).sum().backward()
    assert torch.equal(weight.grad, torch.tensor([1.0, 0.0, 0.0, 2.0]))


def test_clipping_counts_only_the_gradient_of_what_is_kept():
    model, masks = masked()
    dense = build(MLP)
    dense.load_state_dict(model.state_dict())
    x, y = batch(MLP)
    for each in (model, dense):
        nn.functional.cross_entropy(each(x), y).backward()
    kept = [p.grad[masks[n]] if n in masks else p.grad for n, p in dense.named_parameters()]
    expected = torch.cat([part.flatten() for part in kept]).norm()
    assert torch.allclose(nn.utils.clip_grad_norm_(model.parameters(), 0.01), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_gradient_scaler_and_accumulation(dtype):
    model, masks = masked(ConvNet)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    for turn in range(3):
        optimizer.zero_grad()
        for part in range(2):
            x, y = batch(ConvNet, seed=10 * turn + part)
            with torch.autocast("cpu", dtype=dtype):
                loss = nn.functional.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            assert gradient_is_sparse(model, masks)
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        assert is_sparse(model, masks)


def test_a_gradient_that_is_itself_differentiable():
    model, masks = masked()
    x, y = batch(MLP)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using backward")  # torch's advice on reference cycles
        nn.functional.cross_entropy(model(x), y).backward(create_graph=True)
    assert gradient_is_sparse(model, masks)
    model[0].weight.grad.square().sum().backward(inputs=[model[2].weight])
    for parameter in model.parameters():
        parameter.grad = None  # breaks the cycle


def test_sparse_gradients_of_an_embedding():
    model = nn.EmbeddingBag(5, 4, sparse=True, mode="sum")
    mask = torch.arange(20).reshape(5, 4) % 3 > 0
    apply(model, {"weight": mask})
    optimizer = torch.optim.SparseAdam(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.tensor([[1, 1, 3], [0, 3, 1]])).square().sum().backward()
        assert (model.weight.grad.to_dense()[~mask] == 0).all()
        assert model.weight.grad.to_dense()[mask].any()
        optimizer.step()
        assert (model.weight[~mask] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("convert_first", [True, False])
def test_dtypes_and_memory_formats_also_changed_later(dtype, convert_first):
    model = build(ConvNet)
    masks = random_masks(model)
    if convert_first:
        model.to(dtype).to(memory_format=torch.channels_last)
    apply(model, masks)
    model.to(dtype).to(memory_format=torch.channels_last)
    train(model, batch(ConvNet, dtype=dtype))
    assert is_sparse(model, masks)
    assert masks_of(model) == masks


def test_moving_to_a_device_takes_the_masks_along():
    if not torch.cuda.is_available():
        pytest.skip("there is no second device")
    model, masks = masked(ConvNet)
    model.to("cuda")
    train(model, tuple(part.to("cuda") for part in batch(ConvNet)))
    assert is_sparse(model, masks)
    assert masks_of(model) == masks


def test_frozen_parameters_stay_frozen_and_are_held_once_they_are_trained():
    model = build(MLP).requires_grad_(False)
    masks = random_masks(model)
    apply(model, masks)
    assert is_sparse(model, masks)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.requires_grad_(True)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    step(model, optimizer, batch(MLP))
    assert gradient_is_sparse(model, masks)
    assert is_sparse(model, masks)


# The same as a smaller model


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_training_equals_training_the_kept_weights_alone(make):
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(30, 9, generator=draws, dtype=torch.float64)
    y = torch.randn(30, 4, generator=draws, dtype=torch.float64)
    mask = torch.rand(4, 9, generator=draws) < 0.4
    layer = nn.Linear(9, 4, dtype=torch.float64)
    apply(layer, {"weight": mask})
    small = nn.Parameter(layer.weight.detach()[mask].clone())  # one vector: there is nothing else to move
    bias = nn.Parameter(layer.bias.detach().clone())
    optimizers = [make(layer.parameters()), make([small, bias])]
    for _ in range(20):
        for optimizer in optimizers:
            optimizer.zero_grad()
        (layer(x) - y).square().mean().backward()
        weight = torch.zeros(4, 9, dtype=torch.float64).masked_scatter(mask, small)
        (nn.functional.linear(x, weight, bias) - y).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.allclose(layer.weight[mask], small, rtol=1e-9, atol=1e-12)
    assert torch.allclose(layer.bias, bias, rtol=1e-9, atol=1e-12)


# Asking, replacing, removing


def test_masks_of_gives_copies_by_first_name():
    model = build(Tied)
    mask = torch.eye(6, dtype=torch.bool)
    apply(model, {"second.weight": mask})  # the weight's other name
    found = masks_of(model)
    assert list(found) == ["first.weight"]
    found["first.weight"].logical_not_()
    assert torch.equal(masks_of(model)["first.weight"], mask)
    mask.fill_(True)
    assert masks_of(model)["first.weight"].sum() == 6


def test_masks_of_a_part_and_of_the_whole():
    model, masks = masked(ConvNet)
    assert masks_of(model.head) == Masks({"weight": masks["head.weight"]})
    apply(model.head, {"bias": torch.tensor([True, False, True])})
    assert set(masks_of(model)) == (set(masks) - {"head.weight"}) | {"head.bias"}


def test_new_masks_replace_the_old_ones_and_old_handles_do_nothing():
    model = build(MLP)
    old = apply(model, random_masks(model, seed=1))
    new_masks = Masks({"2.weight": torch.ones(7, 8)})
    new = apply(model, new_masks)
    assert masks_of(model) == new_masks
    old.remove()
    assert masks_of(model) == new_masks
    train(model, batch(MLP))
    assert model[0].weight.count_nonzero() == 48
    new.remove()
    with pytest.raises(Invalid, match="holds no masks"):
        masks_of(model)


@pytest.mark.parametrize("kind", MODELS)
def test_removing_leaves_a_plain_model_with_its_zeros(kind):
    model = build(kind)
    plain = {name: vars(module).keys() for name, module in model.named_modules()}
    masks = random_masks(model)
    handle = apply(model, masks)
    handle.remove()
    handle.remove()
    assert is_sparse(model, masks)
    assert {name: vars(module).keys() for name, module in model.named_modules()} == plain
    assert not any(module._load_state_dict_post_hooks for module in model.modules())
    assert b"prunus" not in pickle.dumps(model)
    train(model, batch(kind))
    assert not is_sparse(model, masks)


def test_two_models_that_share_a_weight_share_its_mask():
    one, other = build(MLP), build(MLP, seed=1)
    other[0].weight = one[0].weight
    apply(one, {"0.weight": torch.ones(8, 6)})
    mask = torch.arange(48).reshape(8, 6) % 2 == 0
    apply(other, {"0.weight": mask})
    assert torch.equal(masks_of(one)["0.weight"], mask)
    train(one, batch(MLP))
    assert is_sparse(other, Masks({"0.weight": mask}))
    release(one)
    train(other, batch(MLP))
    assert not is_sparse(other, Masks({"0.weight": mask}))


def test_a_parameter_replaced_by_hand_is_reported():
    model, _ = masked()
    model[2].weight = nn.Parameter(torch.ones(7, 8))
    with pytest.raises(Invalid, match=r"2\.weight was replaced"):
        masks_of(model)


# Bad input


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.good = nn.Linear(3, 2)
        self.count = nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)
        self.lazy = nn.LazyLinear(2)
        self.twin = nn.Linear(3, 2)
        self.twin.weight = self.good.weight
        self.behind = parametrize.register_parametrization(nn.Linear(3, 2), "weight", nn.Tanh())


ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"twin.weigth": ONES}, r"'twin.weigth'.*did you mean 'twin.weight'"),
        ({"good.bias": ONES}, r"good.bias has shape \(2, 3\); allowed: \(2,\)"),
        ({"count": torch.ones(2)}, r"count is of type torch.int64"),
        ({"lazy.weight": ONES}, r"lazy.weight is not initialised"),
        ({"twin.weight": ONES}, r"good.weight and twin.weight are one tied weight"),
        ({"behind.weight": ONES}, r"behind.weight is behind a parametrization"),
        ({"behind.parametrizations.weight.original": ONES}, r"is behind a parametrization"),
        ({"good.bias": [1, 0]}, r"'good.bias' is of type list"),
        ({"good.bias": torch.tensor([0.5, 1])}, r"other than 0 and 1"),
    ],
)
def test_bad_masks_are_refused_before_anything_changes(extra, message):
    model = Mixed()
    before = model.good.weight.detach().clone()
    with pytest.raises(Invalid, match=message):
        apply(model, {"good.weight": torch.zeros(2, 3), **extra})
    assert torch.equal(model.good.weight, before)
    with pytest.raises(Invalid, match="holds no masks"):
        masks_of(model)


@pytest.mark.parametrize(
    ("masks", "message"),
    [([ONES], "type list"), ({}, "masks is empty"), (ONES, "type Tensor")],
)
def test_what_are_no_masks(masks, message):
    with pytest.raises(Invalid, match=message):
        apply(nn.Linear(3, 2), masks)


def test_arguments_in_the_wrong_order():
    with pytest.raises(Invalid, match="model is of type Masks"):
        apply(Masks({"weight": ONES}), nn.Linear(3, 2))
