"""Effective weights against a search in the graph of the network, published ranges, and what must hold of any model."""

import copy
import math
import statistics

import pytest
import torch
from reachability import Graph
from torch import Tensor, nn
from torch.nn import functional as F

import toy
from prunus import analysis
from prunus.analysis import effective, effective_density
from prunus.analysis.flow import Flow
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.probing import Batch
from prunus.core.seeds import generator
from prunus.models import build

DENSITIES = (0.08, 0.2, 0.4)
every_toy = pytest.mark.parametrize("kind", toy.MODELS)


def zeroed(masks: Masks, *names: str) -> Masks:
    return Masks({name: mask & (name not in names) for name, mask in masks.items()})


def without_biases(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    return model.eval()


# Against a search in the graph


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("density", DENSITIES)
def test_fully_connected(density, seed):
    model = nn.Sequential(nn.Linear(9, 12), nn.Sigmoid(), nn.Linear(12, 10), nn.GELU(), nn.Linear(10, 5))
    masks = toy.random_masks(model, density, seed)
    graph = Graph(masks)
    x = graph.nodes(9)
    y = graph.linear(graph.linear(graph.linear(x, "0.weight"), "2.weight"), "4.weight")
    assert effective(model, masks, torch.ones(1, 9)) == graph.effective(x, y)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("pooling", [(2, 2, 0, 1, False), (3, 2, 1, 1, True), (2, 2, 1, 2, True), (3, 1, 0, 1, False)])
def test_convolutions_pooling_and_flatten(pooling, density, seed):
    size, stride, padding, dilation, ceil = pooling
    pool = nn.MaxPool2d(size, stride, padding, dilation, ceil_mode=ceil)
    after = pool(torch.zeros(4, 6, 6))
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        pool,
        nn.Conv2d(4, 3, 2, stride=2),
        nn.LeakyReLU(0.1),
        nn.Flatten(),
        nn.LazyLinear(4),
    )
    model(torch.zeros(2, 2, 6, 6))
    masks = toy.random_masks(model, density, seed)
    graph = Graph(masks)
    x = graph.nodes(2, 6, 6)
    y = graph.pool(graph.conv(x, "0.weight", padding=1), after, size, stride, padding, dilation)
    y = graph.linear(graph.conv(y, "4.weight", stride=2).reshape(-1), "7.weight")
    assert effective(model, masks, torch.ones(1, 2, 6, 6)) == graph.effective(x, y)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("density", DENSITIES)
def test_residual_and_grouped(density, seed):
    model = toy.build(toy.Residual)
    masks = toy.random_masks(model, density, seed)
    graph = Graph(masks)
    x = graph.nodes(2, 6, 6)
    stem = graph.conv(x, "stem.weight", padding=1)
    branch = graph.conv(graph.conv(stem, "grouped.weight", padding=1, groups=4), "point.weight")
    y = graph.linear(graph.mean(graph.join(stem, branch)), "head.weight")
    assert effective(model, masks, torch.ones(1, 2, 6, 6)) == graph.effective(x, y)


class Branches(nn.Module):
    """Strided, dilated, depthwise and transposed convolutions, side by side and one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(4, 4, 2, dilation=2, padding=1, groups=4)
        self.up = nn.ConvTranspose2d(4, 2, 2, stride=2)
        self.last = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(F.silu(self.wide(torch.relu_(self.down(x)))))
        return F.adaptive_max_pool2d(self.last(torch.cat([x, y], 1)), 1).flatten(1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("density", DENSITIES)
def test_concatenation_and_other_convolutions(density, seed):
    model = Branches()
    masks = toy.random_masks(model, density, seed)
    graph = Graph(masks)
    x = graph.nodes(2, 6, 6)
    y = graph.conv(graph.conv(x, "down.weight", 2, 1), "wide.weight", padding=1, dilation=2, groups=4)
    y = graph.transposed(y, "up.weight", stride=2)
    joined = graph.nodes(4, 6, 6)
    for source, target in zip([*x.flat, *y.flat], joined.flat, strict=True):
        graph.edge(source, target)
    out = graph.mean(graph.conv(joined, "last.weight"))
    assert effective(model, masks, torch.ones(1, 2, 6, 6)) == graph.effective(x, out)


@pytest.mark.parametrize("kind", [toy.MLP, toy.ConvNet, toy.Residual, toy.Tied])
@pytest.mark.parametrize("density", DENSITIES)
def test_the_same_weights_as_those_that_synaptic_flow_passes(kind, density):
    model = toy.build(kind)
    masks = toy.random_masks(model, density)
    inputs = torch.ones(1, *toy.SHAPES[kind])
    flow = Flow(model, Batch((inputs,)), masks=masks, norm="identity", biases=False).scores()
    assert effective(model, masks, inputs) == Masks({name: score > 0 for name, score in flow.items()})


# Published


@pytest.mark.parametrize(
    ("scope", "compression", "least", "most"),
    [
        ("uniform", 10, 10.3, 10.45),
        ("uniform", 30, 47, 55),
        ("uniform", 100, 700, 1290),
        ("uniform", 300, 13_000, 89_000),
        ("uniform", 1000, math.inf, math.inf),
        ("erk", 100, 110, 116),
        ("erk", 300, 710, 950),
    ],
)
def test_lenet_300_100_with_random_masks(scope, compression, least, most):
    """The median lies in the range that five seeds of others had."""
    model = build("lenet-300-100", (1, 28, 28), 10, generator=generator(0))
    found = [
        effective(model, Masks.random(model, 1 / compression, scope, generator(seed)), torch.ones(1, 1, 28, 28))
        for seed in range(15)
    ]
    assert least <= statistics.median(masks.compression for masks in found) <= most


# Of any model


@every_toy
@pytest.mark.parametrize("density", DENSITIES)
def test_effective_weights_are_kept_ones_and_effective_among_themselves(kind, density):
    model = toy.build(kind)
    masks = toy.random_masks(model, density)
    inputs = torch.ones(1, *toy.SHAPES[kind])
    found = effective(model, masks, inputs)
    assert found & masks == found
    assert effective(model, found, inputs) == found
    assert effective_density(model, masks, inputs) == found.density


@pytest.mark.parametrize("kind", [toy.MLP, toy.ConvNet, toy.Residual, toy.Tied])
@pytest.mark.parametrize("density", DENSITIES)
def test_without_biases_the_others_change_no_output(kind, density):
    """(LayerNorm, in the other toy, subtracts the mean also from units that nothing reaches.)"""
    model = without_biases(toy.build(kind))
    masks = toy.random_masks(model, density)
    inputs, _ = toy.batch(kind)
    found = effective(model, masks, inputs)
    outputs = []
    for kept in (masks, found):
        one = copy.deepcopy(model)
        toy.apply(one, kept)
        outputs.append(one(inputs))
    assert torch.equal(*outputs)


@every_toy
def test_all_weights_of_a_dense_network_are_effective(kind):
    model = toy.build(kind)
    assert effective(model, Masks.full(model), torch.ones(1, *toy.SHAPES[kind])) == Masks.full(model)


@every_toy
def test_the_model_is_as_it_was(kind):
    model = toy.build(kind).train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    effective(model, toy.random_masks(model), toy.batch(kind)[0])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


# Layers without weights, depth, tied weights


def test_an_empty_layer_cuts_a_chain():
    model = toy.build(toy.ConvNet)
    masks = zeroed(Masks.full(model), "more.0.weight")
    found = effective(model, masks, torch.ones(1, 2, 6, 6))
    assert found.kept == 0
    assert found.compression == math.inf
    assert effective_density(model, masks, torch.ones(1, 2, 6, 6)) == 0


def test_a_shortcut_keeps_a_network_connected():
    model = toy.build(toy.Residual)
    found = effective(model, zeroed(Masks.full(model), "grouped.weight"), torch.ones(1, 2, 6, 6))
    assert {layer.name: layer.density for layer in found.layers} == {
        "stem.weight": 1,
        "grouped.weight": 0,
        "point.weight": 0,
        "head.weight": 1,
    }


def test_paths_are_followed_through_200_layers():
    width, depth = 4, 200
    model = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)))
    order = generator(0)
    chains = {f"{i}.0.weight": torch.eye(width)[torch.randperm(width, generator=order)] for i in range(depth)}
    assert effective(model, Masks(chains), torch.ones(1, width)).kept == width * depth
    chains["117.0.weight"] = chains["117.0.weight"] * (torch.arange(width) > 0)
    assert effective(model, Masks(chains), torch.ones(1, width)).kept == (width - 1) * depth


def test_a_tied_weight_is_effective_by_either_use():
    model = toy.build(toy.Tied)
    masks = {name: torch.zeros_like(mask) for name, mask in Masks.full(model).items()}
    masks["first.weight"][1, 0] = masks["first.weight"][2, 1] = True  # unit 0 to 1, and by the second use 1 to 2
    masks["first.weight"][5, 4] = True  # ends at unit 5, from which nothing goes on
    masks["third.weight"][3, 2] = masks["head.weight"][0, 3] = True
    found = effective(model, Masks(masks), torch.ones(1, 6))
    assert found["first.weight"].nonzero().tolist() == [[1, 0], [2, 1]]
    by_second_name = {"second.weight" if n == "first.weight" else n: mask for n, mask in masks.items()}
    again = effective(model, by_second_name, torch.ones(1, 6))
    assert torch.equal(again["second.weight"], found["first.weight"])


def test_taps_that_only_see_padding_are_not_effective():
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Flatten(), nn.Linear(1, 1))
    found = effective(model, Masks.full(model), torch.ones(1, 1, 1, 1))
    assert found["0.weight"].nonzero().tolist() == [[0, 0, 1, 1]]


def test_prunable_weights_without_a_mask_are_kept():
    model = toy.build(toy.MLP)
    masks = Masks({"2.weight": torch.eye(7, 8)})
    assert effective(model, masks, torch.ones(1, 6)) == masks


# Attention and gates


class Attention(nn.Module):
    """One block of attention, written with PyTorch's parts or by hand, around which nothing leads."""

    def __init__(self, by_hand: bool, causal: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(4, 4, bias=False) for _ in range(4))
        self.by_hand, self.causal = by_hand, causal

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (2, 2)).transpose(1, 2) for part in (self.q, self.k, self.v))
        if self.by_hand:
            hidden = torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1) if self.causal else 0.0
            mixed = F.softmax(q @ k.mT / 2**0.5 + hidden, -1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("by_hand", [False, True])
def test_values_pass_attention_without_scores(by_hand):
    model = Attention(by_hand)
    inputs = torch.ones(1, 3, 4)
    full = Masks.full(model)
    assert effective(model, full, inputs) == full
    assert effective(model, zeroed(full, "q.weight"), inputs) == zeroed(full, "q.weight", "k.weight")
    assert effective(model, zeroed(full, "v.weight"), inputs).kept == 0


@pytest.mark.parametrize("by_hand", [False, True])
def test_heads_are_kept_apart(by_hand):
    model = Attention(by_hand)
    masks = {name: mask.clone() for name, mask in Masks.full(model).items()}
    masks["v.weight"][2:] = False  # the second head has no values, so its queries and keys are of no use
    found = effective(model, masks, torch.ones(1, 3, 4))
    assert found["q.weight"].any(1).tolist() == found["k.weight"].any(1).tolist() == [True, True, False, False]
    assert found["out.weight"].any(0).tolist() == [True, True, False, False]


@pytest.mark.parametrize("by_hand", [False, True])
def test_hidden_places_are_no_paths(by_hand):
    """Causally, what only the last place gives is seen by the last place alone."""

    class Picked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.attention = Attention(by_hand, causal=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(torch.cat([self.first(x[:, :-1]), self.last(x[:, -1:])], 1))[:, 0]

    model = Picked()
    found = effective(model, Masks.full(model), torch.ones(1, 3, 4))
    assert {layer.name for layer in found.layers if not layer.kept} == {"last.weight"}


def test_multihead_attention_is_followed_part_by_part():
    model = toy.build(toy.Transformer)
    full = Masks.full(model)
    projection = full["layer.self_attn.in_proj_weight"].clone()
    projection[8:16] = False  # no keys
    found = effective(model, {**full, "layer.self_attn.in_proj_weight": projection}, torch.ones(1, 5, 8))
    kept = found["layer.self_attn.in_proj_weight"]
    assert [bool(part.any()) for part in kept.chunk(3)] == [False, False, True]
    assert bool(kept[16:].all())


class Gated(nn.Module):
    """Squeeze and excitation: channels are multiplied by a gate that is made from their means."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 1)
        self.squeeze, self.excite = nn.Linear(4, 2), nn.Linear(2, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3))))))
        return self.head((x * gate[:, :, None, None]).mean((2, 3)))


def test_a_gate_without_weights_stays_open():
    model = Gated()
    full, inputs = Masks.full(model), torch.ones(1, 2, 3, 3)
    assert effective(model, full, inputs) == full
    found = effective(model, zeroed(full, "squeeze.weight"), inputs)
    assert found == zeroed(full, "squeeze.weight", "excite.weight")
    assert effective(model, zeroed(full, "stem.weight"), inputs).kept == 0


def test_embeddings_are_inputs():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 2))
    full = Masks.full(model)
    assert effective(model, full, torch.tensor([[0, 1, 2]])) == full


def test_what_is_added_is_no_path():
    """A class token and positions are no inputs: without the first layer nothing is left.

    Only the token's place is read, so no path leads through its queries; they are made from the token alone.
    """

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.block, self.head = nn.Linear(4, 8), toy.Transformer().layer, nn.Linear(8, 2)
            self.token, self.places = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 4, 8))

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([self.token.expand(len(x), -1, -1), self.first(x)], 1) + self.places
            return self.head(self.block(x)[:, 0])

    model = Tokens()
    full, inputs = Masks.full(model), torch.ones(1, 3, 4)
    assert effective(model, zeroed(full, "first.weight"), inputs).kept == 0
    found = effective(model, full, inputs)
    projection = full["block.self_attn.in_proj_weight"] & (torch.arange(24) >= 8)[:, None]
    assert found == Masks({**full, "block.self_attn.in_proj_weight": projection})


def test_operations_that_change_tensors_in_place():
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.branch, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x -= 0.5
            y = self.first(x)
            z = self.branch(y)
            z += y
            z.mul_(2).div_(3).clamp_(min=0)
            return self.last(z)

    model = InPlace()
    full, inputs = Masks.full(model), torch.ones(1, 4)
    assert effective(model, full, inputs) == full
    masks = zeroed(full, "branch.weight")
    assert effective(model, masks, inputs) == masks


def test_operations_in_all_their_forms():
    class Forms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            x = torch.where(x > 0, x, 0.0) + x.where(x < 0, x * 0.1)
            x = (1 - x) * torch.pow(2.0, x) / (x.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
            x = torch.max(x, torch.zeros_like(x)) - x.exp().log1p() * x.rsqrt()
            x = F.normalize(torch.clamp(x, -1, 1)) * (2 / (1 + x.abs()))
            return F.log_softmax(self.last(F.layer_norm(x, (4,)).round()), -1)

    model = Forms()
    masks = {"first.weight": torch.eye(4) > 0, "last.weight": torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]]) > 0}
    found = effective(model, masks, torch.ones(1, 4))
    assert found["first.weight"].diagonal().tolist() == [True, True, True, False]
    assert torch.equal(found["last.weight"], masks["last.weight"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_other_types(dtype):
    model = toy.build(toy.ConvNet).to(dtype)
    masks = toy.random_masks(model, 0.3)
    inputs = torch.ones(1, 2, 6, 6)
    assert effective(model, masks, inputs) == effective(toy.build(toy.ConvNet), masks, inputs)
    assert analysis.costs(model, masks, inputs) == analysis.costs(toy.build(toy.ConvNet), masks, inputs)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_where_no_gradients_are_wanted(context):
    model = toy.build(toy.ConvNet).requires_grad_(False)
    masks, inputs = toy.random_masks(model, 0.3), torch.ones(1, 2, 6, 6)
    expected = effective(model, masks, inputs)
    with context():
        assert effective(model, masks, torch.ones(1, 2, 6, 6)) == expected


# Bad input


def test_masks_of_another_model_are_refused():
    model = toy.build(toy.MLP)
    with pytest.raises(Invalid, match=r"'0\.wieght', which is no parameter of the model; did you mean '0\.weight'"):
        effective(model, {"0.wieght": torch.ones(8, 6)})
    with pytest.raises(Invalid, match=r"0\.weight is \(8, 6\), its mask \(6, 8\)"):
        effective(model, {"0.weight": torch.ones(6, 8)})
    with pytest.raises(Invalid, match=r"first\.weight and second\.weight are one tied weight; give it one mask"):
        effective(toy.build(toy.Tied), dict.fromkeys(("first.weight", "second.weight"), torch.ones(6, 6)))
    with pytest.raises(Invalid, match="masks is"):
        effective(model, {})
    with pytest.raises(Invalid, match=r"model is of type int; allowed: a torch\.nn\.Module"):
        effective(3, {})  # type: ignore[arg-type]


def test_recurrent_layers_are_refused():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.head = nn.LSTM(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.recurrent(x)[0])

    model = Recurrent()
    with pytest.raises(Invalid, match="paths through lstm are not followed"):
        effective(model, Masks.full(model), torch.ones(1, 3, 4))


def test_inputs_that_the_model_does_not_take():
    model = toy.build(toy.MLP)
    with pytest.raises(Invalid, match=r"MLP does not take a torch\.float32 tensor of shape \(1, 5\)|does not take"):
        effective(model, Masks.full(model), torch.ones(1, 5))


def test_everything_public_is_there():
    assert all(hasattr(analysis, name) for name in analysis.__all__)
