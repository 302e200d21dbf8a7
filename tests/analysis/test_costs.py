"""Multiply-accumulates against published counts, closed forms, and counting every edge of the network."""

import copy
import math

import pytest
import torch
from reachability import Graph
from torch import Tensor, nn
from torch.nn import functional as F

import toy
from prunus.analysis import costs, effective
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.core.seeds import generator
from prunus.models import build

every_toy = pytest.mark.parametrize("kind", toy.MODELS)


def macs(model: nn.Module, *shape: int) -> dict[str, int]:
    return {layer.name: layer.macs for layer in costs(model, inputs=torch.ones(1, *shape)).layers}


# Published and closed forms


@pytest.mark.parametrize(
    ("name", "side", "classes", "published"),
    [("resnet-18", 224, 1000, 1.82e9), ("resnet-50", 224, 1000, 4.09e9), ("mobilenet-v2", 224, 1000, 300e6)],
)
def test_published_counts(name, side, classes, published):
    model = build(name, (3, side, side), classes, generator=generator(0))
    assert costs(model, inputs=torch.ones(1, 3, side, side)).total.macs == pytest.approx(published, rel=0.005)


def test_vgg_16_for_cifar_by_its_list_of_layers():
    model = build("vgg-16-bn", (3, 32, 32), 10, generator=generator(0))
    expected, before, side = [], 3, 32
    for channels in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512):
        if channels:
            expected.append(9 * before * channels * side**2)
            before = channels
        else:
            side //= 2
    found = costs(model, inputs=torch.ones(1, 3, 32, 32))
    assert [layer.macs for layer in found.layers] == [*expected, 512 * 10]
    assert found.all_parameters == 14_728_266
    assert found.total.parameters == 14_715_584


# Against the edges of the network


class Convolutions(nn.Module):
    """Without padding each multiplication is one edge."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, stride=2)
        self.grouped = nn.Conv2d(4, 6, 2, groups=2)
        self.up = nn.ConvTranspose2d(6, 3, 2, stride=2)
        self.dilated = nn.Conv2d(3, 2, 2, dilation=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dilated(self.up(torch.relu(self.grouped(self.first(x))))).flatten(1))


@pytest.mark.parametrize("density", [1.0, 0.5, 0.15])
def test_each_kept_weight_counts_once_for_each_edge(density):
    model = Convolutions()
    masks = toy.random_masks(model, density)
    found = costs(model, masks, torch.ones(1, 2, 7, 7))
    for kept, which in ((masks, "kept_macs"), (effective(model, masks, torch.ones(1, 2, 7, 7)), "effective_macs")):
        graph = Graph(kept)
        x = graph.conv(graph.nodes(2, 7, 7), "first.weight", stride=2)
        x = graph.transposed(graph.conv(x, "grouped.weight", groups=2), "up.weight", stride=2)
        graph.linear(graph.conv(x, "dilated.weight", dilation=2).reshape(-1), "head.weight")
        edges = [weight[0] for ends in graph.ends for _, weight in ends if weight]
        assert {layer.name: getattr(layer, which) for layer in found.layers} == {n: edges.count(n) for n in kept}


def test_padding_is_multiplied_too():
    assert macs(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1)), 1, 4, 4) == {"0.weight": 9 * 16}


# Uses


def test_a_linear_layer_counts_for_each_place_of_a_sequence():
    assert macs(nn.Sequential(nn.Linear(4, 3)), 5, 4) == {"0.weight": 5 * 12}


def test_layers_used_twice_count_twice():
    found = costs(toy.build(toy.Tied), inputs=torch.ones(1, 6))
    assert {layer.name: (layer.uses, layer.parameters, layer.macs) for layer in found.layers} == {
        "first.weight": (2, 36, 72),
        "third.weight": (1, 36, 36),
        "head.weight": (1, 18, 18),
    }


def test_the_projections_of_attention():
    """Queries for each place that asks, keys and values for each that answers."""

    class Cross(nn.Module):
        def __init__(self, **kwargs: int) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, bias=False, batch_first=True, **kwargs)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.attention(x, y[..., : self.attention.kdim], y)[0]

    inputs = ((torch.ones(1, 3, 8), torch.ones(1, 5, 8)), None)
    found = costs(Cross(), inputs=inputs)
    assert [layer.macs for layer in found.layers] == [64 * (3 + 5 + 5), 64 * 3]
    found = costs(Cross(kdim=6, vdim=8), inputs=inputs)
    assert {layer.name.split(".")[1]: layer.macs for layer in found.layers} == {
        "q_proj_weight": 64 * 3,
        "k_proj_weight": 48 * 5,
        "v_proj_weight": 64 * 5,
        "out_proj": 64 * 3,
    }


def test_masks_of_attention_count_where_they_are():
    model = toy.build(toy.Transformer)
    name = "layer.self_attn.in_proj_weight"
    masks = {**Masks.full(model), name: torch.arange(24)[:, None].expand(24, 8) < 8}  # queries only
    found = {layer.name: layer for layer in costs(model, masks, torch.ones(1, 5, 8)).layers}
    assert (found[name].macs, found[name].kept_macs) == (3 * 64 * 5, 64 * 5)


def test_weights_that_are_multiplied_by_hand():
    class ByHand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.packed = nn.Linear(4, 8, bias=False)
            self.turned = nn.Linear(4, 6, bias=False)
            self.standardised = nn.Conv2d(1, 2, 2)
            self.experts = nn.Parameter(torch.ones(3, 4, 5))
            self.mixed = nn.Parameter(torch.ones(4, 7))
            self.unused = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            first, last = self.packed.weight.split([6, 2])
            weight = self.standardised.weight
            weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
            parts = [
                F.linear(x, first),
                x[:, :1] @ last.t(),
                torch.addmm(torch.zeros(6), x[0], self.turned.weight.t()),
                F.conv2d(x[:, None], weight),
                torch.bmm(x.expand(3, -1, -1), self.experts),
                torch.einsum("...ti,ij->...tj", x, self.mixed),
            ]
            return torch.stack([part.sum() for part in parts])

    model = ByHand()
    masks = {n: torch.ones(p.shape) for n, p in model.named_parameters() if "bias" not in n}
    masks["packed.weight"][6:] = 0
    found = {layer.name: layer for layer in costs(model, inputs=torch.ones(1, 3, 4), masks=masks).layers}
    assert {name: layer.macs for name, layer in found.items()} == {
        "packed.weight": 3 * 24 + 1 * 8,
        "turned.weight": 3 * 24,
        "standardised.weight": 2 * 4 * 2 * 3,
        "experts": 3 * 3 * 20,
        "mixed": 3 * 28,
        "unused.weight": 0,
    }
    assert found["packed.weight"].kept_macs == 3 * 24
    assert found["unused.weight"].uses == 0
    assert "no products seen of unused.weight" in str(costs(model, masks, torch.ones(1, 3, 4)))


def test_the_linear_layer_of_transformers():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    assert macs(nn.Sequential(conv1d(6, 4)), 5, 4) == {"0.weight": 5 * 24}


# Sums, and the model


@every_toy
@pytest.mark.parametrize("density", [0.1, 0.5])
def test_dense_kept_effective(kind, density):
    model = toy.build(kind)
    masks = toy.random_masks(model, density)
    inputs = torch.ones(1, *toy.SHAPES[kind])
    found, on_paths = costs(model, masks, inputs), effective(model, masks, inputs)
    assert [(layer.name, layer.kept) for layer in found.layers] == [(row.name, row.kept) for row in masks.layers]
    assert [layer.effective for layer in found.layers] == [row.kept for row in on_paths.layers]
    assert all(layer.effective_macs <= layer.kept_macs <= layer.macs for layer in found.layers)
    assert found.total.macs == sum(layer.macs for layer in found.layers)
    assert found.total.flops == 2 * found.total.macs
    assert found.total.speedup == found.total.macs / found.total.kept_macs
    assert found.total.parameters == sum(weight.numel() for weight in prunable(model).values())
    assert found.all_parameters == sum(parameter.numel() for parameter in model.parameters())


def test_masks_count_like_any_tensor_of_their_shape():
    model = toy.build(toy.ConvNet).to(memory_format=torch.channels_last)
    masks = toy.random_masks(model, 0.5)
    found = costs(model, masks, torch.ones(1, 2, 6, 6))
    positions = {"features.0.weight": 36, "more.0.weight": 1, "head.weight": 1}
    assert {r.name: r.kept_macs for r in found.layers} == {r.name: r.kept * positions[r.name] for r in masks.layers}


def test_everything_pruned():
    found = costs(toy.build(toy.MLP), {n: torch.zeros(w.shape) for n, w in prunable(toy.build(toy.MLP)).items()})
    assert (found.total.kept_macs, found.total.speedup, found.total.effective_speedup) == (0, math.inf, math.inf)


def test_counts_are_of_one_input():
    model = toy.build(toy.ConvNet)
    assert costs(model, inputs=torch.ones(16, 2, 6, 6)) == costs(model, inputs=torch.ones(1, 2, 6, 6))


@every_toy
def test_the_model_is_as_it_was(kind):
    model = toy.build(kind).train()
    before = copy.deepcopy(model.state_dict())
    costs(model, toy.random_masks(model), toy.batch(kind)[0])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_table_names_its_unit():
    text = str(costs(toy.build(toy.MLP), inputs=torch.ones(1, 6)))
    assert "MACs" in text
    assert "1 MAC is 2 FLOPs" in text
    assert "143 parameters in all" in text.replace("\n", " ")


def test_a_model_without_prunable_weights_is_refused():
    with pytest.raises(Invalid, match="ReLU has no prunable weights"):
        costs(nn.ReLU(), inputs=torch.ones(1, 2))
