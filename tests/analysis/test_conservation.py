"""The conservation laws: hand-computed sums, networks of all kinds, and where the laws do not hold."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import toy
from prunus.analysis import conservation, effective
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.core.seeds import generator
from prunus.models import build

EXACT = 1e-10


def inputs_of(kind: type[nn.Module]) -> Tensor:
    return torch.ones(1, *toy.SHAPES[kind])


def moved(model: nn.Module, seed: int = 0) -> nn.Module:
    """With BatchNorm as after training."""
    draws = generator(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=draws) + 0.5)
    return model


def saliency(model: nn.Module, x: Tensor, seed: int = 0) -> tuple[dict[str, Tensor], float]:
    """θ ∂R/∂θ of a loss, for all parameters, and ⟨∂R/∂y, y⟩, by autograd in float64."""
    model = copy.deepcopy(model).double().eval()
    y = model(x.double())
    targets = torch.randint(y.shape[-1], (len(x),), generator=generator(seed))
    y.retain_grad()
    F.cross_entropy(y, targets).backward()
    return {n: p.detach() * p.grad for n, p in model.named_parameters()}, float((y.grad * y.detach()).sum())


def bias_free(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    return model


# By hand


class TwoLayers(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 3, bias=bias), nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1, -2], [0.5, 1], [-3, 0.1]]))
            self.second.weight.copy_(torch.tensor([[1, 2, -0.5], [-1, 0, 4]]))
            if bias:
                self.first.bias.copy_(torch.tensor([0.5, 0, 1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def test_the_worked_vector():
    found = conservation(TwoLayers(bias=False), inputs=torch.ones(1, 2))
    assert found.flow == pytest.approx(22.95, rel=1e-6)
    assert [layer.sum for layer in found.layers] == pytest.approx([22.95, 22.95], rel=1e-6)
    (hidden,) = found.units
    assert hidden.name == "first.weight"
    assert hidden.incoming.tolist() == pytest.approx([6, 3, 13.95], rel=1e-6)
    assert hidden.outgoing.tolist() == pytest.approx([6, 3, 13.95], rel=1e-6)
    assert max(found.layer_error, found.unit_error) <= 1e-15
    assert found.left_out == {"second.weight": "feeds the outputs"}


def test_the_worked_vector_with_biases():
    """The first layer's weights alone are not conserved; with the biases they are."""
    found = conservation(TwoLayers(bias=True), inputs=torch.ones(1, 2))
    first, second = found.layers
    assert found.flow == pytest.approx(28.45, rel=1e-6)
    assert (first.sum, first.biases) == pytest.approx((22.95, 5.5), rel=1e-6)
    assert (second.sum, second.biases) == pytest.approx((28.45, 0), rel=1e-6)
    assert max(found.layer_error, found.unit_error) <= 1e-15
    assert conservation(TwoLayers(bias=True), inputs=torch.ones(1, 2), biases=False).flow == pytest.approx(22.95)


# Synaptic flow


@pytest.mark.parametrize("kind", toy.MODELS)
@pytest.mark.parametrize("biases", [False, True])
def test_flow_is_conserved(kind, biases):
    found = conservation(moved(toy.build(kind)), inputs=inputs_of(kind), biases=biases)
    assert found.layer_errors
    assert len(found.unit_errors)
    assert found.layer_error <= EXACT
    assert found.unit_error <= EXACT
    assert found.mean_layer_error <= found.layer_error
    assert found.mean_unit_error <= found.unit_error


@pytest.mark.parametrize("density", [0.2, 0.6])
def test_flow_is_conserved_under_masks(density):
    model = toy.build(toy.ConvNet)
    masks = toy.random_masks(model, density)
    found = conservation(model, inputs=inputs_of(toy.ConvNet), masks=masks, biases=False)
    assert found.flow > 0
    assert max(found.layer_error, found.unit_error) <= EXACT
    assert [layer.size for layer in found.layers] == [layer.kept for layer in masks.layers]
    on_paths = effective(model, masks, inputs_of(toy.ConvNet))["features.0.weight"].flatten(1).any(1)
    assert torch.equal(found.units[0].incoming > 0, on_paths)


@pytest.mark.parametrize("name", ["vgg-11-bn", "vgg-16", "resnet-18", "mobilenet-v1"])
def test_flow_is_conserved_in_networks_of_the_papers(name):
    model = build(name, (3, 16, 16), 10, width=1 / 8, generator=generator(0))
    found = conservation(moved(model), inputs=torch.ones(1, 3, 16, 16), biases=False)
    assert max(found.layer_error, found.unit_error) <= EXACT
    kinds = {layer.name: layer.kind for layer in found.layers}
    branches = {n for n, kind in kinds.items() if kind == "branch"}
    assert branches == {n for n in kinds if ".branch." in n or ".shortcut." in n}
    assert set(kinds.values()) <= {"cut", "branch"}


def test_the_mean_score_is_in_inverse_proportion_to_the_size():
    model = build("vgg-11-bn", (3, 32, 32), 10, width=1 / 4, generator=generator(0))
    found = conservation(model, inputs=torch.ones(1, 3, 32, 32))
    assert [layer.mean * layer.size for layer in found.layers] == pytest.approx([found.flow] * 9, rel=EXACT)


# Any saliency


@pytest.mark.parametrize("kind", [toy.MLP, toy.ConvNet, toy.Residual])
def test_the_saliency_of_a_loss_is_conserved_without_biases(kind):
    model = bias_free(toy.build(kind))
    x, _ = toy.batch(kind)
    scores, flow = saliency(model, x)
    found = conservation(model, {n: scores[n] for n in prunable(model)}, x, flow=flow)
    assert found.flow == flow
    assert max(found.layer_error, found.unit_error) <= EXACT
    assert any(bool((unit.incoming < 0).any()) for unit in found.units)  # signed, unlike flow
    assert conservation(model, scores, x).flow == pytest.approx(flow, rel=EXACT)


@pytest.mark.parametrize("kind", [toy.MLP, toy.ConvNet, toy.Residual])
def test_biases_belong_to_the_sums(kind):
    """Those of BatchNorm with them, as long as its running means are zero."""
    model = toy.build(kind)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, generator=generator(1))
    x, _ = toy.batch(kind)
    scores, flow = saliency(model, x)
    found = conservation(model, scores, x, flow=flow)
    assert max(found.layer_error, found.unit_error) <= EXACT
    alone = conservation(model, {n: scores[n] for n in prunable(model)}, x, flow=flow)
    assert alone.layer_error > 0.01
    assert alone.unit_error > 0.01


def test_the_laws_fail_where_activations_are_not_homogeneous():
    """φ(x) is not φ'(x)·x for tanh: the numbers say so."""
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 7, bias=False), nn.Tanh())
    model.append(nn.Linear(7, 3, bias=False))
    x = 2 * toy.batch(toy.MLP)[0]
    scores, flow = saliency(model, x)
    found = conservation(model, scores, x, flow=flow)
    assert [layer.name for layer in found.units] == ["0.weight", "2.weight"]
    assert found.unit_error > 0.1
    assert found.mean_unit_error > 0.01
    assert found.layer_error > 0.1
    assert found.layer_errors["4.weight"] <= EXACT  # the last layer is linear


def test_magnitude_is_not_conserved():
    model = toy.build(toy.MLP)
    scores = {name: weight.detach().abs() for name, weight in prunable(model).items()}
    found = conservation(model, scores, inputs_of(toy.MLP))
    assert found.layer_error > 0.1
    assert found.unit_error > 0.1


# Units, against what autograd says of each of them


class Everything(nn.Module):
    """Layers between which units move about: flatten, concatenation, channels shuffled, repeated and cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.grouped = nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2, bias=False)
        self.side = nn.Conv2d(6, 3, 1, bias=False)
        self.hidden = nn.Linear(2 * 36, 5, bias=False)
        self.by_hand = nn.Parameter(torch.empty(5, 4))
        self.last = nn.Linear(4 + 3, 3, bias=False)
        nn.init.normal_(self.by_hand, generator=generator(2))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = seen = {}
        seen["first.weight"] = x = self.first(x)
        x = F.channel_shuffle(F.max_pool2d(F.relu(x), 2), 2)
        seen["grouped.weight"] = x = self.grouped(x)
        seen["up.weight"] = x = self.up(F.avg_pool2d(F.leaky_relu(x), 3, 1, 1))
        seen["side.weight"] = side = self.side(F.pad(x, (1, 0, 0, 1)).relu())
        seen["hidden.weight"] = x = self.hidden(side[:, :2, 1:, 1:].flatten(1))
        x = x.relu() @ self.by_hand
        return self.last(torch.cat([0.5 * x, side.amax((2, 3))], 1))


def test_both_sides_of_each_unit_are_what_autograd_says():
    """⟨z, ∂R/∂z⟩ over all places of a unit, for a network that is homogeneous."""
    model = toy.build(Everything).double()
    x = torch.randn(5, 2, 6, 6, generator=generator(0), dtype=torch.float64)
    y = model(x)
    for z in model.seen.values():
        z.retain_grad()
    F.cross_entropy(y, torch.arange(5) % 3).backward()
    scores = {n: p.detach() * p.grad for n, p in model.named_parameters()}
    expected = {n: (z * z.grad).movedim(1, 0).flatten(1).sum(1) for n, z in model.seen.items()}
    model.seen = {}
    model.zero_grad()
    found = conservation(model, scores, x)
    # the matrix is no layer, so what feeds it has nothing that is known behind it
    assert {unit.name for unit in found.units} == set(expected) - {"hidden.weight"}
    for unit in found.units:
        assert unit.incoming.tolist() == pytest.approx(expected[unit.name].tolist(), rel=EXACT)
        assert unit.outgoing.tolist() == pytest.approx(expected[unit.name].tolist(), rel=EXACT)
    assert found.left_out["hidden.weight"] == "goes into matmul"


def test_layers_are_left_out_with_the_reason():
    found = conservation(toy.build(toy.Residual), inputs=inputs_of(toy.Residual))
    assert [unit.name for unit in found.units] == ["grouped.weight"]
    assert found.left_out == {
        "stem.weight": "joins a sum",
        "point.weight": "joins a sum",
        "head.weight": "feeds the outputs",
    }
    assert conservation(toy.build(toy.Transformer), inputs=inputs_of(toy.Transformer)).left_out == {
        "layer.self_attn.in_proj_weight": "used more than once",
        "layer.self_attn.out_proj.weight": "its outputs are not told apart",
        "layer.linear2.weight": "joins a sum",
        "head.weight": "feeds the outputs",
    }


def test_a_layer_that_is_used_twice_says_nothing():
    found = conservation(toy.build(toy.Tied), inputs=inputs_of(toy.Tied), biases=False)
    shared = found.layers[0]
    assert (shared.name, shared.kind, shared.error) == ("first.weight", "shared", None)
    assert shared.sum == pytest.approx(2 * found.flow, rel=EXACT)  # all flow goes through it twice
    assert [unit.name for unit in found.units] == ["third.weight"]


def test_a_layer_that_feeds_itself_and_others():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.shared(self.shared(self.first(x).relu()).relu()))

    found = conservation(Twice(), inputs=torch.ones(1, 4))
    assert found.left_out["first.weight"] == "feeds shared.weight, which is used more than once"


def test_learned_tokens_are_sources_beside_the_first_layer():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False)
            self.token = nn.Parameter(torch.ones(1, 1, 8))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.cat([self.token.expand(len(x), -1, -1), self.first(x)], 1).relu().sum(1))

    found = conservation(Tokens(), inputs=torch.ones(1, 3, 4))
    assert [layer.kind for layer in found.layers] == ["branch", "cut"]
    assert found.layer_error <= EXACT


def test_activations_of_transformers():
    """They are written out in many operations, of which none is to be mistaken for something else."""
    gelu = pytest.importorskip("transformers.activations").NewGELUActivation
    model = nn.Sequential(nn.Linear(4, 6), gelu(), nn.Linear(6, 2))
    found = conservation(model, inputs=torch.ones(1, 4))
    assert [unit.name for unit in found.units] == ["0.weight"]
    assert found.unit_error <= EXACT


# Reports, the model, bad input


@pytest.mark.parametrize("kind", toy.MODELS)
def test_the_model_is_as_it_was(kind):
    model = toy.build(kind).train()
    before = copy.deepcopy(model.state_dict())
    conservation(model, inputs=toy.batch(kind)[0])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert model.training


def test_the_table_has_each_layer_and_the_errors():
    text = str(conservation(toy.build(toy.Residual), inputs=inputs_of(toy.Residual)))
    for words in ("stem.weight", "branch", "cut", "joins a sum", "2 layers that are cuts", "8 hidden units"):
        assert words in text


def test_nothing_to_say():
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.other(x)

    found = conservation(Sum(), inputs=torch.ones(1, 2))
    assert not found.layer_errors
    assert math.isnan(found.layer_error)
    assert math.isnan(found.unit_error)
    assert "no layers that are cuts" in str(found)
    assert "no hidden units" in str(found)


def test_scores_that_do_not_fit_are_refused():
    model = toy.build(toy.MLP)
    scores = {name: weight.detach() for name, weight in prunable(model).items()}
    with pytest.raises(Invalid, match=r"scores lack '2\.weight'"):
        conservation(model, {n: s for n, s in scores.items() if n != "2.weight"}, torch.ones(1, 6))
    with pytest.raises(Invalid, match=r"the scores of '2\.weight', \(8, 7\), are of no parameter"):
        conservation(model, {**scores, "2.weight": torch.ones(8, 7)}, torch.ones(1, 6))
    with pytest.raises(Invalid, match=r"the scores of 'more', \(1,\), are of no parameter"):
        conservation(model, {**scores, "more": torch.ones(1)}, torch.ones(1, 6))


def test_a_flow_that_is_not_finite_is_refused():
    model = toy.build(toy.MLP)
    with torch.no_grad():
        model[0].weight[0, 0] = math.inf
    with pytest.raises(Invalid, match="the synaptic flow is inf"):
        conservation(model, inputs=torch.ones(1, 6))


def test_masks_must_fit():
    with pytest.raises(Invalid, match="no parameter of the model"):
        conservation(toy.build(toy.MLP), masks=Masks({"0.wieght": torch.ones(1)}), inputs=torch.ones(1, 6))
