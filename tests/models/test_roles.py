import pytest
from torch import nn

from prunus.core.errors import Invalid
from prunus.core.params import prunable
from prunus.core.seeds import generator
from prunus.models import MODELS, build, kind_of, output_layer


@pytest.mark.parametrize("name", MODELS.names())
def test_the_output_layer_has_one_row_a_class(name):
    model = build(name, (3, 32, 32), 13, width=0.1, generator=generator(0))
    assert model.state_dict()[output_layer(model)].shape[0] == 13


def test_kinds_of_a_convolutional_network():
    model = build("conv-4", (3, 32, 32), 10, width=0.1, generator=generator(0))
    kinds = [kind_of(model, name) for name in prunable(model)]
    assert kinds == ["conv"] * 4 + ["fc"] * 2 + ["output"]
    assert kind_of(model, "conv2.bias") == "conv"


def test_a_convolution_can_be_the_output_layer():
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv1d(4, 4, 1), nn.ConvTranspose1d(4, 2, 1), nn.LayerNorm(2))
    assert output_layer(model) == "2.weight"
    assert [kind_of(model, f"{i}.weight") for i in range(4)] == ["fc", "conv", "output", "fc"]


def test_a_tied_output_is_the_output_under_both_names():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[2].weight = model[1].weight
    assert output_layer(model) == "1.weight"
    assert [kind_of(model, f"{i}.weight") for i in range(3)] == ["fc", "output", "output"]


def test_what_is_not_there_is_named():
    with pytest.raises(Invalid, match=r"no parameter 'fc1\.wight'; did you mean 'fc1\.weight'"):
        kind_of(build("lenet-300-100", (1, 8, 8), 10, generator=generator(0)), "fc1.wight")
    with pytest.raises(Invalid, match="LayerNorm has no linear or convolution layer"):
        output_layer(nn.LayerNorm(3))
