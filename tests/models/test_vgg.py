import pytest
from torch import nn
from zoo import CIFAR, IMAGENET, TINY, assert_drawn, count, count_prunable, fresh, hollow, output_shapes

from prunus.core.params import prunable

# as the paper's table of configurations has them; M is max-pooling
PLANS = {
    "vgg-11": "64 M 128 M 256 256 M 512 512 M 512 512 M",
    "vgg-16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    "vgg-19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}
NAMES = [name + norm for name in PLANS for norm in ("", "-bn")]


def plan(model):
    kinds = {nn.Conv2d: lambda layer: str(layer.out_channels), nn.MaxPool2d: lambda _: "M"}
    return " ".join(kinds[type(layer)](layer) for layer in model.modules() if type(layer) in kinds)


@pytest.mark.parametrize("name", NAMES)
def test_the_layers_are_those_of_the_paper(name):
    expected = PLANS[name.removesuffix("-bn")]
    assert plan(hollow(name, TINY, 200)) == expected
    assert plan(hollow(name, CIFAR, 10)) == expected.removesuffix(" M")
    for model in (hollow(name, TINY, 200), hollow(name, CIFAR, 10)):
        convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
        assert all(c.kernel_size == (3, 3) and c.padding == (1, 1) and c.bias is not None for c in convolutions)
        norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
        assert len(norms) == (len(convolutions) if name.endswith("-bn") else 0)


def test_the_published_number_of_prunable_weights():
    for name in ("vgg-16", "vgg-16-bn"):
        model = hollow(name, CIFAR, 100)
        assert (count_prunable(model), len(prunable(model))) == (14_761_664, 14)


@pytest.mark.parametrize(
    ("name", "parameters"), [("vgg-11-bn", 9_231_114), ("vgg-16-bn", 14_728_266), ("vgg-19-bn", 20_040_522)]
)
def test_the_usual_number_of_parameters_on_cifar_10(name, parameters):
    assert count(hollow(name, CIFAR, 10)) == parameters


@pytest.mark.parametrize("name", PLANS)
def test_biases_and_norms_are_all_that_is_not_prunable(name):
    channels = sum(int(word) for word in PLANS[name].split() if word != "M")
    for shape, classes, hidden in ((CIFAR, 10, 0), (TINY, 200, 2 * 1024)):
        plain, normed = hollow(name, shape, classes), hollow(f"{name}-bn", shape, classes)
        assert count(plain) - count_prunable(plain) == channels + hidden + classes
        assert count(normed) - count(plain) == 2 * channels


def linear_shapes(model):
    return [tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, nn.Linear)]


def test_the_head_follows_from_the_smaller_side():
    tiny = [(1024, 2048), (1024, 1024), (200, 1024)]
    assert linear_shapes(hollow("vgg-11", TINY, 200)) == tiny
    assert linear_shapes(hollow("vgg-11", (3, 64, 95), 200)) == tiny
    for small in (CIFAR, (3, 63, 63), (3, 63, 200)):
        assert linear_shapes(hollow("vgg-11", small, 200)) == [(200, 512)]
    assert linear_shapes(hollow("vgg-11", IMAGENET, 1000))[0] == (1024, 512 * 7 * 7)


def test_hidden_linear_layers_have_dropout_and_the_small_head_has_none():
    tiny = [type(layer) for layer in hollow("vgg-16-bn", TINY, 200)][-9:]
    hidden = [nn.Linear, nn.ReLU, nn.Dropout]
    assert tiny == [nn.MaxPool2d, nn.Flatten, *hidden, *hidden, nn.Linear]
    assert {layer.p for layer in hollow("vgg-16-bn", TINY, 200) if isinstance(layer, nn.Dropout)} == {0.5}
    assert not [layer for layer in hollow("vgg-16-bn", CIFAR, 10) if isinstance(layer, nn.Dropout)]


def test_small_images_end_in_the_mean_over_two_by_two_pixels():
    seen = output_shapes(hollow("vgg-16", CIFAR, 10), CIFAR, nn.ReLU, nn.AdaptiveAvgPool2d)
    assert [shape for _, shape in seen[-2:]] == [(512, 2, 2), (512, 1, 1)]


def test_width_scales_convolutions_and_hidden_units():
    shapes = [tuple(w.shape) for w in prunable(hollow("vgg-11", TINY, 200, 0.25)).values()]
    assert [s[0] for s in shapes] == [16, 32, 64, 64, 128, 128, 128, 128, 256, 256, 200]
    assert shapes[8:] == [(256, 128 * 4), (256, 256), (200, 256)]


@pytest.mark.parametrize("name", ["vgg-11", "vgg-11-bn"])
def test_the_small_network_is_kaiming_normal_by_its_inputs(name):
    for weight in prunable(fresh(name, CIFAR, width=0.5)).values():
        assert_drawn(weight, 2 / weight[0].numel())


@pytest.mark.parametrize("name", ["vgg-11", "vgg-11-bn"])
def test_the_large_network_is_kaiming_normal_by_its_outputs_with_small_linear_weights(name):
    for weight in prunable(fresh(name, TINY, width=0.5)).values():
        fan_out = weight.shape[0] * 9
        assert_drawn(weight, 0.01**2 if weight.dim() == 2 else 2 / fan_out)
