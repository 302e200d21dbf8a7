import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zoo import CIFAR, IMAGENET, count, count_prunable, hollow

from prunus.core.params import prunable
from prunus.core.seeds import generator
from prunus.models.wide_resnet import PreActivation

NAMES = {"wrn-16-8": (16, 8), "wrn-22-2": (22, 2), "wrn-22-8": (22, 8), "wrn-28-10": (28, 10)}


@pytest.mark.parametrize(
    ("name", "millions"), [("wrn-16-8", 11.0), ("wrn-22-8", 17.2), ("wrn-28-10", 36.5), ("wrn-22-2", 1.1)]
)
def test_the_published_number_of_parameters_on_cifar_10(name, millions):
    assert round(count(hollow(name, CIFAR, 10)) / 1e6, 1) == millions


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_weights_in_closed_form(name):
    depth, factor = NAMES[name]
    blocks, total, before = (depth - 4) // 6, 3 * 16 * 9 + 64 * factor * 10, 16
    for after in (16 * factor, 32 * factor, 64 * factor):
        total += before * after * 9 + before * after + (2 * blocks - 1) * after * after * 9
        before = after
    model = hollow(name, CIFAR, 10)
    assert count_prunable(model) == total
    assert len(prunable(model)) == 6 * blocks + 2 + 3  # with the three shortcuts


def test_the_published_number_of_prunable_weights():
    assert count_prunable(hollow("wrn-22-2", CIFAR, 10)) == 1_076_912


def test_the_wide_network_of_imagenet():
    model = hollow("wide-resnet-50-2", IMAGENET, 1000)
    assert count(model) == 68_883_240
    assert len(prunable(model)) == 54


def test_shortcuts_are_convolutions_without_norm_at_the_beginning_of_each_stage():
    model = hollow("wrn-28-10", CIFAR, 10)
    found = {name: module for name, module in model.named_modules() if name.endswith("shortcut")}
    assert len(found) == 12
    projecting = {name: m for name, m in found.items() if not isinstance(m, nn.Identity)}
    assert list(projecting) == [f"stage{i}.block1.shortcut" for i in (1, 2, 3)]
    assert all(type(m) is nn.Conv2d and m.kernel_size == (1, 1) and m.bias is None for m in projecting.values())
    assert [m.stride[0] for m in projecting.values()] == [1, 2, 2]


@pytest.mark.parametrize("projects", [True, False])
def test_a_block_activates_first_and_a_projection_takes_what_is_activated(projects):
    before, after, stride = (4, 6, 2) if projects else (4, 4, 1)
    block, draw = PreActivation(before, after, stride, projects).eval(), generator(0)
    values = {k: torch.rand(v.shape, generator=draw) for k, v in block.state_dict().items() if "num_batches" not in k}
    block.load_state_dict(values, strict=False)

    def norm(x, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(values[f"{name}.{key}"] for key in keys))

    x = torch.randn(2, before, 7, 6, generator=draw)
    activated = torch.relu(norm(x, "start.bn1"))
    inner = torch.relu(norm(F.conv2d(activated, values["branch.conv1.weight"], None, stride, 1), "branch.bn1"))
    around = F.conv2d(activated, values["shortcut.weight"], None, stride) if projects else x
    expected = F.conv2d(inner, values["branch.conv2.weight"], padding=1) + around
    torch.testing.assert_close(block(x), expected)


def test_batch_norm_and_relu_stand_before_the_mean():
    model = hollow("wrn-16-8", CIFAR, 10)
    assert [name for name, _ in model.named_children()][-4:] == ["end", "mean", "flatten", "fc"]
    assert [type(layer) for layer in model.get_submodule("end")] == [nn.BatchNorm2d, nn.ReLU]
