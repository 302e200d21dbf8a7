import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zoo import CIFAR, IMAGENET, TINY, assert_drawn, count, count_prunable, fresh, hollow, multiply_adds, output_shapes

from prunus.core.params import prunable
from prunus.core.seeds import generator


@pytest.mark.parametrize(
    ("name", "shape", "classes", "parameters"),
    [
        ("resnet-18", IMAGENET, 1000, 11_689_512),
        ("resnet-50", IMAGENET, 1000, 25_557_032),
        ("resnet-18", CIFAR, 10, 11_173_962),
        ("resnet-50", CIFAR, 10, 23_520_842),
        ("resnet-20", CIFAR, 10, 269_722),
        ("resnet-32", CIFAR, 10, 464_154),
        ("resnet-56", CIFAR, 10, 853_018),
    ],
)
def test_the_published_number_of_parameters(name, shape, classes, parameters):
    assert count(hollow(name, shape, classes)) == parameters


def test_the_published_number_of_prunable_weights():
    assert count_prunable(hollow("resnet-50", IMAGENET, 1000)) == 25_502_912


@pytest.mark.parametrize(
    ("name", "layers"), [("resnet-18", 18 + 3), ("resnet-50", 50 + 4)] + [(f"resnet-{d}", d) for d in (20, 32, 56)]
)
def test_the_depth_is_the_number_of_layers_without_shortcuts(name, layers):
    assert len(prunable(hollow(name, CIFAR, 10))) == layers


def test_the_published_number_of_multiply_adds():
    assert multiply_adds(hollow("resnet-18", IMAGENET, 1000), IMAGENET) == pytest.approx(1.8e9, rel=0.02)


def stage_shapes(name, shape):
    model = hollow(name, shape, 10)
    ends = [model.get_submodule(part) for part in ("stem", *(p for p, _ in model.named_children() if "stage" in p))]
    seen = output_shapes(model, shape, nn.Sequential)
    return [next(output for module, output in seen if module is end) for end in ends]


def test_the_image_is_halved_where_the_paper_says():
    small = [(64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    assert stage_shapes("resnet-18", CIFAR) == small
    assert stage_shapes("resnet-18", TINY) == [(c, 2 * h, 2 * w) for c, h, w in small]
    assert stage_shapes("resnet-50", IMAGENET) == [
        (64, 56, 56),
        *((256 * 2**i, 56 // 2**i, 56 // 2**i) for i in range(4)),
    ]
    assert stage_shapes("resnet-56", CIFAR) == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]


@pytest.mark.parametrize("name", ["resnet-18", "resnet-50", "wide-resnet-50-2"])
def test_the_stem_is_that_of_imagenet_from_128_pixels_on(name):
    kinds = [type(layer) for layer in hollow(name, (3, 127, 300), 10).get_submodule("stem")]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    large = hollow(name, (3, 128, 128), 10).get_submodule("stem")
    assert [type(layer) for layer in large] == [*kinds, nn.MaxPool2d]
    first = large.get_submodule("conv1")
    assert (first.kernel_size, first.stride) == ((7, 7), (2, 2))


def shortcuts(model):
    """The blocks that have a shortcut other than the identity."""
    found = [(name, module) for name, module in model.named_modules() if name.endswith("shortcut")]
    return [(name, module) for name, module in found if not isinstance(module, nn.Identity)]


def test_projections_stand_where_a_stage_changes_channels_or_size():
    expected = [f"stage{i}.block1.shortcut" for i in (2, 3, 4)]
    assert [name for name, _ in shortcuts(hollow("resnet-18", CIFAR, 10))] == expected
    assert [name for name, _ in shortcuts(hollow("resnet-50", CIFAR, 10))] == ["stage1.block1.shortcut", *expected]
    for _, shortcut in shortcuts(hollow("resnet-50", CIFAR, 10)):
        assert [type(layer) for layer in shortcut] == [nn.Conv2d, nn.BatchNorm2d]
        assert shortcut[0].kernel_size == (1, 1)


@pytest.mark.parametrize("name", ["resnet-18", "resnet-50", "resnet-20", "wrn-22-2", "mobilenet-v2"])
def test_the_structure_is_the_same_at_every_width(name):
    def layers(model):
        return [(path, type(module)) for path, module in model.named_modules()]

    assert layers(hollow(name, CIFAR, 10, 1e-3)) == layers(hollow(name, CIFAR, 10))


def test_shortcuts_of_the_cifar_networks_pick_every_second_pixel_and_add_zeros():
    model = fresh("resnet-20", CIFAR)
    assert [name for name, _ in shortcuts(model)] == ["stage2.block1.shortcut", "stage3.block1.shortcut"]
    for (_, shortcut), channels in zip(shortcuts(model), (16, 32), strict=True):
        assert not list(shortcut.parameters())
        x = torch.rand(2, channels, 5, 8, generator=generator(0))
        expected = torch.cat([x[:, :, ::2, ::2], torch.zeros(2, channels, 3, 4)], dim=1)
        assert torch.equal(shortcut(x), expected)


def test_the_middle_convolution_of_a_bottleneck_has_the_stride():
    branch = hollow("resnet-50", CIFAR, 10).get_submodule("stage2.block1.branch")
    convolutions = [layer for layer in branch if isinstance(layer, nn.Conv2d)]
    assert [(c.kernel_size[0], c.stride[0], c.out_channels) for c in convolutions] == [
        (1, 1, 128),
        (3, 2, 128),
        (1, 1, 512),
    ]


def norm(values, x, name):
    keys = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(x, *(values[f"{name}.{key}"] for key in keys))


@pytest.mark.parametrize(("name", "has_projection"), [("resnet-18", True), ("resnet-20", False)])
def test_a_block_is_two_convolutions_and_a_shortcut(name, has_projection):
    model = fresh(name, CIFAR, width=0.25).eval()
    block = model.get_submodule("stage2.block1")
    draw = generator(1)
    values = {k: torch.rand(v.shape, generator=draw) - 0.3 * (v.dim() > 1) for k, v in block.state_dict().items()}
    values = {k: v for k, v in values.items() if "num_batches" not in k}
    block.load_state_dict(values, strict=False)
    x = torch.randn(2, values["branch.conv1.weight"].shape[1], 6, 6, generator=draw)
    inner = torch.relu(norm(values, F.conv2d(x, values["branch.conv1.weight"], stride=2, padding=1), "branch.bn1"))
    outer = norm(values, F.conv2d(inner, values["branch.conv2.weight"], padding=1), "branch.bn2")
    if has_projection:
        around = norm(values, F.conv2d(x, values["shortcut.conv1.weight"], stride=2), "shortcut.bn1")
    else:
        around = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, x.shape[1]))
    torch.testing.assert_close(block(x), torch.relu(outer + around))


@pytest.mark.parametrize("name", ["resnet-18", "resnet-50", "resnet-20", "wrn-22-2", "wide-resnet-50-2"])
def test_convolutions_are_kaiming_normal_by_their_outputs_and_the_linear_layer_is_as_in_pytorch(name):
    model = fresh(name, CIFAR, classes=100, width=0.25)
    for parameter_name, weight in prunable(model).items():
        if weight.dim() == 4:
            assert_drawn(weight, 2 / (weight.shape[0] * weight[0, 0].numel()))
        else:
            inputs = weight.shape[1]
            assert parameter_name == "fc.weight"
            assert_drawn(weight, 1 / (3 * inputs))
            assert 0.98 * inputs**-0.5 < weight.abs().max() <= inputs**-0.5
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert not module.bias.any()
    assert not model.get_parameter("fc.bias").any()
