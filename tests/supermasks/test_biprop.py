import pytest
import torch
from supermasking import learn, output, sgd
from torch import nn

from prunus.core.apply import masks_of
from prunus.supermasks import Biprop, EdgePopup, bake, scores, supermask, supermask_of
from toy import MODELS, ConvNet, batch, build


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("scope", ["layerwise", "global"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_layer_has_three_values_of_which_one_is_the_mean_size_of_what_it_keeps(kind, scope, dtype):
    model = build(kind).to(dtype)
    supermask(model, Biprop(density=0.3, scope=scope))
    optimizer = sgd(model)
    for turn in range(3):
        masks = masks_of(model)
        for name, layer in supermask_of(model).layers.items():
            kept = layer.weight[masks[name]]
            values = layer.effective
            assert torch.equal(values != 0, masks[name])
            assert torch.equal(values.sign(), layer.weight.sign() * masks[name])
            assert torch.allclose(values[masks[name]].abs(), kept.abs().mean())
            assert values.unique().numel() <= 3
        optimizer.zero_grad()
        x, y = batch(kind, seed=turn, dtype=dtype)
        nn.functional.cross_entropy(output(model, x), y).backward()
        optimizer.step()


def test_the_scale_is_a_constant_so_scores_learn_as_those_of_edge_popup_with_these_weights():
    # with weights of one size in each layer, the mean of what is kept is that size, and the methods are one
    binary, plain = build(ConvNet), build(ConvNet)
    supermask(binary, Biprop(density=0.4), weights="kaiming-constant")
    supermask(plain, EdgePopup(density=0.4), weights="kaiming-constant")
    for model in (binary, plain):
        learn(model, ConvNet, torch.optim.SGD(scores(model), lr=0.05), steps=5)
    assert masks_of(binary) == masks_of(plain)
    for one, two in zip(scores(binary), scores(plain), strict=True):
        assert torch.allclose(one, two, atol=1e-5)


def test_it_is_signs_a_mask_and_a_number_for_each_layer():
    model = build(ConvNet).eval()
    supermask(model, Biprop(density=0.4))
    x = batch(ConvNet)[0]
    before, parts = model(x), supermask_of(model).parts()
    weights = {name: layer.weight.detach().clone() for name, layer in supermask_of(model).layers.items()}
    bake(model)
    for name, part in parts.items():
        assert part.signs
        expected = torch.where(part.mask != 0, weights[name].sign() * part.scale, 0.0)
        assert torch.equal(model.get_parameter(name), expected)
    assert torch.equal(model(x), before)


def test_weights_that_are_zero_count_among_what_is_kept():
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, 0.0, -4.0, 1.0]]))
    for scope in ("layerwise", "global"):
        supermask(model, Biprop(density=0.75, scope=scope))
        with torch.no_grad():
            scores(model)[0].copy_(torch.tensor([[3.0, 2.0, 1.0, 0.0]]))
        assert model.weight.tolist() == [[2.0, 0.0, -2.0, 0.0]]
        supermask_of(model).refresh()
        masks = masks_of(model)
        assert masks["weight"].tolist() == [[True, True, True, False]]
        bake(model)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[2.0, 0.0, -4.0, 1.0]]))


def test_many_half_precision_weights_have_a_finite_scale():
    model = nn.Linear(512, 512, bias=False).half()
    with torch.no_grad():
        model.weight.fill_(0.5)  # 131,072 of them add up to what float16 cannot hold
    supermask(model, Biprop(density=0.5))
    assert model.weight.unique().tolist() == [0.0, 0.5]
