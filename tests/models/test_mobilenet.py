import pytest
from torch import nn
from zoo import CIFAR, IMAGENET, assert_drawn, count, fresh, hollow, multiply_adds, output_shapes

from prunus.core.params import prunable


@pytest.mark.parametrize(("name", "parameters"), [("mobilenet-v1", 4_231_976), ("mobilenet-v2", 3_504_872)])
def test_the_published_number_of_parameters(name, parameters):
    assert count(hollow(name, IMAGENET, 1000)) == parameters


@pytest.mark.parametrize(
    ("width", "side", "millions", "parameters"),
    [
        (1.0, 224, 569, 4.2),
        (0.75, 224, 325, 2.6),
        (0.5, 224, 149, 1.3),
        (0.25, 224, 41, 0.5),
        (1.0, 192, 418, 4.2),
        (1.0, 160, 290, 4.2),
        (1.0, 128, 186, 4.2),
    ],
)
def test_multiply_adds_of_v1_by_width_and_side_as_in_the_papers_tables(width, side, millions, parameters):
    model = hollow("mobilenet-v1", (3, side, side), 1000, width)
    assert multiply_adds(model, (3, side, side)) / 1e6 == pytest.approx(millions, abs=1)
    assert count(model) / 1e6 == pytest.approx(parameters, abs=0.05)


def test_multiply_adds_of_v2_as_published():
    assert multiply_adds(hollow("mobilenet-v2", IMAGENET, 1000), IMAGENET) / 1e6 == pytest.approx(300, abs=2)


@pytest.mark.parametrize(("name", "convolutions"), [("mobilenet-v1", 27), ("mobilenet-v2", 52)])
def test_the_number_of_layers(name, convolutions):
    model = hollow(name, IMAGENET, 1000)
    assert len(prunable(model)) == convolutions + 1


@pytest.mark.parametrize("name", ["mobilenet-v1", "mobilenet-v2"])
@pytest.mark.parametrize(
    ("side", "first", "last"), [(224, 112, 7), (128, 64, 4), (127, 127, 8), (32, 32, 2), (16, 16, 1)]
)
def test_the_first_stride_is_1_below_128_pixels(name, side, first, last):
    model = hollow(name, (3, side, side), 10)
    sizes = [shape[-1] for _, shape in output_shapes(model, (3, side, side), nn.Conv2d)]
    assert (sizes[0], sizes[-1]) == (first, last)


def test_v1_is_depthwise_and_pointwise_in_turn():
    first, *rest = [m for m in hollow("mobilenet-v1", IMAGENET, 1000).modules() if isinstance(m, nn.Conv2d)]
    assert (first.kernel_size, first.out_channels, first.groups) == ((3, 3), 32, 1)
    assert len(rest) == 26
    for depthwise, pointwise in zip(rest[::2], rest[1::2], strict=True):
        assert depthwise.groups == depthwise.in_channels == depthwise.out_channels == pointwise.in_channels
        assert (depthwise.kernel_size, pointwise.kernel_size, pointwise.groups) == ((3, 3), (1, 1), 1)


def test_v2_has_ten_shortcuts_all_the_identity_and_linear_bottlenecks():
    model = hollow("mobilenet-v2", IMAGENET, 1000)
    found = [module for name, module in model.named_modules() if name.endswith("shortcut")]
    assert [type(module) for module in found] == [nn.Identity] * 10
    branches = [module for name, module in model.named_modules() if name.endswith("branch")]
    branches += [model.get_submodule(f"stage{i}.block1") for i in range(1, 8)]
    assert len(branches) == 17
    for branch in branches:
        *_, relu, projection, norm = branch
        assert [type(layer) for layer in (relu, projection, norm)] == [nn.ReLU6, nn.Conv2d, nn.BatchNorm2d]


def test_the_hidden_channels_of_v2_are_six_times_those_of_the_block():
    model = hollow("mobilenet-v2", IMAGENET, 1000)
    expanding = [m for n, m in model.named_modules() if n.endswith("conv1") and "stage" in n and "stage1." not in n]
    assert [m.out_channels / m.in_channels for m in expanding] == [6] * 16


@pytest.mark.parametrize("name", ["mobilenet-v1", "mobilenet-v2"])
def test_convolutions_are_kaiming_normal_by_their_inputs_and_linear_weights_small(name):
    for weight in prunable(fresh(name, CIFAR, classes=100, width=0.5)).values():
        assert_drawn(weight, 2 / weight[0].numel() if weight.dim() == 4 else 0.01**2)
