import copy
import re
from math import sqrt

import numpy as np
import pytest
import torch
from torch import nn

from prunus.core.counter import FROZEN_WEIGHTS, signs
from prunus.core.errors import Invalid
from prunus.core.params import prunable
from prunus.supermasks.weights import WEIGHTS, Origin, draw_weights, drawn
from vectors import STREAM, VECTORS

# a layer, and its inputs and outputs for one unit, counted by hand
LAYERS = {
    "linear": (lambda: nn.Linear(300, 400), 300, 400),
    "conv": (lambda: nn.Conv2d(20, 50, 5), 20 * 25, 50 * 25),
    "grouped": (lambda: nn.Conv2d(40, 80, 3, groups=2), 20 * 9, 80 * 9),
    "transposed": (lambda: nn.ConvTranspose2d(20, 50, 5), 20 * 25, 50 * 25),
}


def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10))


def bits(weight):
    return weight.detach().contiguous().numpy().view(np.uint32).reshape(-1).tolist()


@pytest.mark.parametrize("scheme", WEIGHTS)
def test_the_vectors_of_the_page(scheme):
    known = VECTORS["weights"]
    outputs, inputs = known["rows"], known["columns"]
    model = nn.Sequential(*[nn.Linear(2, inputs) for _ in range(known["layer"])], nn.Linear(inputs, outputs))
    draw_weights(model, Origin(scheme, STREAM[0], known["gain"]))
    assert bits(model[-1].weight) == [int(word, 16) for word in known["schemes"][scheme].split()]


def test_the_page_has_every_scheme():
    assert set(VECTORS["weights"]["schemes"]) == set(WEIGHTS)


@pytest.mark.parametrize("scheme", WEIGHTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_moments_and_shape_of_the_distribution(layer, scheme):
    make, inputs, outputs = LAYERS[layer]
    model = nn.Sequential(make())
    draw_weights(model, Origin(scheme, 3, gain=2.0))
    weights, count = model[0].weight.detach().double(), model[0].weight.numel()
    rule, shape = scheme.split("-")
    variance = 4 * {"kaiming": 2 / inputs, "glorot": 2 / (inputs + outputs)}[rule]
    # bounds of about five standard errors
    assert abs(weights.mean()) < 5 * (variance / count) ** 0.5
    assert weights.square().mean().item() == pytest.approx(variance, rel=5 * (2 / count) ** 0.5)
    fourth = {"normal": 3.0, "uniform": 1.8, "constant": 1.0}[shape]  # kurtosis
    assert (weights**4).mean().item() / variance**2 == pytest.approx(fourth, rel=0.15)
    assert model[0].bias.count_nonzero() == 0


@pytest.mark.parametrize("gain", [1.0, 10**0.5])
def test_a_constant_is_one_number_with_the_signs_of_the_stream(gain):
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 7, 3))
    draw_weights(model, Origin("kaiming-constant", 12, gain))
    size = np.float32(sqrt(2 / 45) * gain)
    assert model[1].weight.flatten().tolist() == [size * s for s in signs(12, FROZEN_WEIGHTS, 1, 5 * 7 * 9).tolist()]


@pytest.mark.parametrize("scheme", WEIGHTS)
def test_a_gain_of_two_doubles_every_bit_pattern(scheme):
    once, twice = net(), net()
    draw_weights(once, Origin(scheme, 4))
    draw_weights(twice, Origin(scheme, 4, gain=2.0))
    assert all(torch.equal(2 * once[i].weight, twice[i].weight) for i in (0, 4))


def test_a_layer_depends_on_its_position_and_on_no_other_layer():
    whole, one, wider = net(), net(), nn.Sequential(nn.Conv2d(9, 8, 3), *list(net())[1:])
    before = one[0].weight.clone()
    draw_weights(whole, Origin("kaiming-normal", 1))
    draw_weights(one, Origin("kaiming-normal", 1), ["4.weight"])
    draw_weights(wider, Origin("kaiming-normal", 1))
    assert torch.equal(one[4].weight, whole[4].weight)
    assert torch.equal(wider[4].weight, whole[4].weight)
    assert torch.equal(one[0].weight, before)
    twins = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    draw_weights(twins, Origin("kaiming-normal", 1))
    assert not torch.equal(twins[0].weight, twins[1].weight)


def test_only_weights_and_biases_of_those_layers_are_written():
    model = net()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 7.0)
    before = copy.deepcopy(model.state_dict())
    draw_weights(model, Origin("glorot-uniform", 1), ["0.weight"])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.weight", "0.bias"}


def test_the_global_generators_are_left_alone():
    model = net()
    before = torch.get_rng_state()
    draw_weights(model, Origin("kaiming-normal", 1))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_would_be_written_is_what_is_written():
    model = net()
    before = copy.deepcopy(model.state_dict())
    would = dict(drawn(model, Origin("kaiming-uniform", 8)))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    draw_weights(model, Origin("kaiming-uniform", 8))
    assert list(would) == list(prunable(model))
    assert all(torch.equal(would[name], value) for name, value in prunable(model).items())


def test_the_memory_format_does_not_show():
    plain, last = net(), net().to(memory_format=torch.channels_last)
    for model in (plain, last):
        draw_weights(model, Origin("kaiming-normal", 2))
    assert torch.equal(plain[0].weight, last[0].weight)
    assert last[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_hold_the_float32_numbers(dtype):
    single, other = net(), net().to(dtype)
    for model in (single, other):
        draw_weights(model, Origin("kaiming-normal", 2))
    assert other[4].weight.dtype == dtype
    assert torch.equal(other[4].weight, single[4].weight.to(dtype))


def test_a_tied_weight_is_drawn_once_and_all_its_biases_are_zero():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    draw_weights(model, Origin("kaiming-normal", 2))
    alone = nn.Sequential(nn.Linear(4, 4))
    draw_weights(alone, Origin("kaiming-normal", 2))
    assert torch.equal(model[1].weight, alone[0].weight)
    assert model[0].bias.count_nonzero() == model[1].bias.count_nonzero() == 0


def test_the_projection_of_an_attention_has_the_inputs_of_a_linear_layer():
    model = nn.MultiheadAttention(64, 4)
    draw_weights(model, Origin("kaiming-constant", 2))
    assert model.in_proj_weight.abs().unique().tolist() == [np.float32(sqrt(2 / 64))]
    assert model.in_proj_bias.count_nonzero() == 0


def test_conv1d_of_hugging_face_has_its_inputs_in_the_rows():
    layers = pytest.importorskip("transformers.pytorch_utils")
    model = nn.Sequential(layers.Conv1D(10, 40))
    draw_weights(model, Origin("kaiming-constant", 2))
    assert model[0].weight.shape == (40, 10)
    assert model[0].weight.abs().unique().tolist() == [np.float32(sqrt(2 / 40))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("kaiming-norm", 0), "weights is 'kaiming-norm'; did you mean 'kaiming-normal'?"),
        (("kaiming-normal", -1), "seed is -1; allowed: a whole number from 0 to 2^64 − 1"),
        (("kaiming-normal", 2**64), "seed is 18446744073709551616"),
        (("kaiming-normal", 0.0), "seed is 0.0"),
        (("kaiming-normal", 0, 0.0), "gain is 0.0; allowed: a number above 0"),
        (("kaiming-normal", 0, float("inf")), "gain is inf"),
        (("kaiming-normal", 0, float("nan")), "gain is nan"),
        (("kaiming-normal", 0, "2"), "gain is '2'"),
    ],
)
def test_an_option_that_is_wrong_is_named(options, message):
    with pytest.raises(Invalid, match=re.escape(message)):
        Origin(*options)


def test_a_name_that_cannot_be_drawn_changes_nothing():
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(Invalid, match=re.escape("'1.weight' is no weight that can be drawn from a seed")):
        draw_weights(model, Origin("kaiming-normal", 0), ["0.weight", "1.weight"])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
