import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zoo import CIFAR, IMAGENET, assert_drawn, count, fresh, hollow, output_shapes

from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.core.seeds import generator

NAME, SIZE = "wiring-graph", (2, 8, 8)


def small(nodes=40):
    """Two inputs, five outputs, and 40 nodes in all."""
    return fresh(NAME, SIZE, classes=3, width=nodes / 800)


def wired(edges):
    """A graph of which only these edges are there, each with weight 1."""
    model = small()
    with torch.no_grad():
        model.wiring.weight.zero_()
        for source, target in edges:
            model.wiring.weight[target, source] = 1.0
    return model


def differs(model, x, other):
    with torch.no_grad():
        return not torch.equal(model(x), model(other))


def images(seed=0, batch=2):
    return torch.randn(batch, *SIZE, generator=generator(seed))


def test_the_number_of_parameters_in_closed_form_and_at_the_papers_density():
    model = hollow(NAME, CIFAR, 10)
    assert count(model) == 800**2 + 800 * 9 + 3 * 32 * 9 + 100 * 10 + 10
    masks = Masks.random(fresh(NAME, CIFAR), 0.05, include="wiring.weight")
    assert masks.kept == 32_000
    assert count(model) - masks.total + masks.kept == 32_000 + 7_200 + 864 + 1_010


def test_the_wiring_is_one_weight_and_a_pattern_picks_it_out():
    model = hollow(NAME, CIFAR, 10)
    for pattern in ("wiring.weight", "*wiring*"):
        assert [(name, tuple(w.shape)) for name, w in prunable(model, pattern).items()] == [
            ("wiring.weight", (800, 800, 1, 1))
        ]
    assert list(prunable(model)) == ["stem.conv.weight", "wiring.weight", "node.conv.weight", "fc.weight"]


@pytest.mark.parametrize(
    ("shape", "sides"),
    [
        (CIFAR, (8, 8)),
        ((1, 28, 28), (7, 7)),
        ((3, 64, 64), (8, 8)),
        (IMAGENET, (7, 7)),
        ((1, 8, 8), (8, 8)),
        ((1, 13, 13), (13, 13)),
        ((1, 14, 14), (7, 7)),
        ((1, 16, 40), (8, 20)),
        ((1, 4, 4), (4, 4)),
    ],
)
def test_the_smaller_side_becomes_seven_pixels_or_some_more(shape, sides):
    model = hollow(NAME, shape, 10, 0.1)
    seen = [size for module, size in output_shapes(model, shape, nn.Conv2d) if module is model.wiring]
    assert seen == [(80, *sides)] * 5


def test_width_scales_the_nodes():
    shapes = [tuple(weight.shape) for weight in prunable(hollow(NAME, CIFAR, 10, 0.5)).values()]
    assert shapes == [(16, 3, 3, 3), (400, 400, 1, 1), (400, 1, 3, 3), (10, 50)]
    assert hollow(NAME, CIFAR, 10, 1e-9)(torch.zeros(2, *CIFAR, device="meta")).shape == (2, 10)


def test_each_node_norms_its_sum_cuts_what_is_negative_and_convolves():
    model, x = small().double(), images().double()
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    state = torch.zeros(2, 40, 8, 8, dtype=torch.double)
    state[:, :2] = F.conv2d(x, weights["stem.conv.weight"], padding=1)
    for _ in range(5):
        after = torch.empty_like(state)
        for v in range(40):
            total = sum(weights["wiring.weight"][v, u, 0, 0] * state[:, u] for u in range(40))
            spread = total - total.mean((1, 2), keepdim=True)
            normed = spread / (spread.square().mean((1, 2), keepdim=True) + 1e-5).sqrt()
            kernel = weights["node.conv.weight"][v][None]
            after[:, v] = F.conv2d(normed.clamp(min=0)[:, None], kernel, padding=1)[:, 0]
        state = after
    expected = state[:, -5:].mean((2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]
    torch.testing.assert_close(model(x), expected)


def test_the_way_in_is_a_convolution_and_a_mean():
    model, x = fresh(NAME, CIFAR, width=0.1), torch.randn(2, *CIFAR, generator=generator(0))
    state = model.stem(x)
    entered = F.avg_pool2d(F.conv2d(x, model.stem.conv.weight, stride=2, padding=1), 2)
    torch.testing.assert_close(state[:, :3], entered)
    assert not state[:, 3:].any()


@pytest.mark.parametrize(
    ("edges", "reaches"),
    [
        ([(0, 10), (10, 11), (11, 12), (12, 13), (13, 37)], True),
        ([(0, 10), (10, 11), (11, 12), (12, 37)], False),  # there too early, and gone again
        ([(0, 10), (10, 11), (11, 12), (12, 37), (37, 37)], True),  # unless it stays
        ([(0, 10), (10, 11), (11, 12), (12, 13), (13, 14), (14, 37)], False),
        ([(0, 10), (10, 0), (0, 37)], True),  # round a loop, twice
        ([(0, 10), (10, 11), (11, 12), (12, 13), (13, 34)], False),  # no output
        ([(3, 10), (10, 11), (11, 12), (12, 13), (13, 37)], False),  # no input
    ],
)
def test_what_reaches_an_output_has_gone_over_five_edges(edges, reaches):
    assert differs(wired(edges), images(0), images(1)) == reaches


def test_a_node_without_input_stays_zero():
    model = wired([])
    torch.testing.assert_close(model(images()), model.fc.bias.expand(2, 3))


def test_images_do_not_see_each_other_and_modes_do_not_differ():
    model, x = small(), images(batch=3)
    torch.testing.assert_close(model.train()(x)[:1], model.eval()(x[:1]))


def test_how_it_starts():
    weights = prunable(fresh(NAME, CIFAR, classes=100))
    *convolutions, linear = weights.values()
    for weight in convolutions:
        assert_drawn(weight, 2 / weight[0].numel())
    assert linear.abs().max() <= 1 / 100**0.5
    assert_drawn(linear, 1 / 300)
