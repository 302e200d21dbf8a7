"""Synaptic flow against networks of absolute values, in residual networks, attention and odd models."""

import copy

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.analysis.flow import Flow
from prunus.core.errors import Invalid
from prunus.core.probing import Batch
from tiny_nets import NETS, half, mlp, tiny
from toy import Transformer, build


def ones(kind) -> Batch:
    return Batch((torch.ones(1, *NETS[kind]),))


def absolute(model: nn.Module) -> nn.Module:
    """A copy of absolute values."""
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        for tensor in twin.state_dict(keep_vars=True).values():
            tensor.abs_()
    return twin


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_flow_as_a_whole_is_the_output_of_a_network_of_absolute_values(kind, dtype):
    model = tiny(kind, bias=False)
    flow = Flow(model, ones(kind), dtype=dtype)
    total = flow.run(lambda name, weight, gradient: None)
    assert total == pytest.approx(float(absolute(model)(torch.ones(1, *NETS[kind]).double()).detach().sum()), rel=1e-5)
    scores = flow.scores()
    assert {tensor.dtype for tensor in scores.values()} == {dtype}
    last = list(scores)[-1] if kind is not list(NETS)[-1] else "head.weight"
    assert float(scores[last].sum()) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("kind", NETS)
def test_weights_can_be_taken_away_at_once_or_one_after_another(kind):
    model = tiny(kind)
    masks = half(model)
    at_once = Flow(model, ones(kind), masks=masks).scores()
    flow = Flow(model, ones(kind))
    for name, mask in masks.items():
        flow.drop(name, (~mask).flatten().nonzero().squeeze(1))
    one_by_one = flow.scores()
    assert all(torch.equal(tensor, one_by_one[name]) for name, tensor in at_once.items())
    assert all(not tensor[~masks[name]].any() for name, tensor in at_once.items())


def test_a_weight_that_no_path_reaches_carries_nothing():
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    handed: list[str] = []
    flow = Flow(Spare(), Batch((torch.ones(1, 3),)))
    flow.run(lambda name, weight, gradient: handed.append(name))
    assert handed == ["used.weight"]
    assert not flow.scores()["spare.weight"].any()


def test_no_path_at_all_is_no_flow():
    model = tiny(mlp, bias=False)
    nothing = prunus.Masks({n: torch.zeros_like(w, dtype=torch.bool) for n, w in prunus.prunable(model).items()})
    flow = Flow(model, ones(mlp), masks=nothing)
    assert flow.run(lambda *_: None) == 0
    assert not any(tensor.any() for tensor in flow.scores().values())


def test_gradients_may_be_written_to_and_are_let_go():
    model = tiny(mlp)
    flow = Flow(model, ones(mlp))
    expected = flow.scores()
    found: dict[str, Tensor] = {}

    def keep(name: str, weight: Tensor, gradient: Tensor) -> None:
        found[name] = gradient.mul_(weight)

    flow.run(keep)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert all(weight.grad is None and not weight.requires_grad for weight in flow.weights.values())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in flow.scores().items())


def test_only_shapes_of_the_first_row_count_and_integers_are_what_they_are():
    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(3, 2)
            self.seen: list[list[float]] = []

        def forward(self, x: Tensor, index: Tensor, scale: Tensor) -> Tensor:
            self.seen = [x.tolist(), index.tolist(), [float(scale)]]
            return self.line(x)

    model = Takes()
    Flow(model, Batch((torch.randn(7, 3), torch.arange(5), torch.tensor(4.0)))).scores()
    assert model.seen == [[[1, 1, 1]], [0], [1.0]]


def test_tied_weights_carry_what_flows_through_all_their_places():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False)).double()
    model[2].weight = model[0].weight
    apart = copy.deepcopy(model)
    apart[2].weight = nn.Parameter(model[0].weight.detach().clone())
    given = Batch((torch.ones(1, 4),))
    (together,) = Flow(model, given).scores().values()
    first, second = Flow(apart, given).scores().values()
    torch.testing.assert_close(together, first + second, rtol=1e-12, atol=0)


def test_biases_are_sources_or_not():
    model = tiny(mlp)
    layers = [part for part in model if isinstance(part, nn.Linear)]
    carried: Tensor = torch.ones(5, dtype=torch.float64)
    for layer in layers:
        carried = layer.weight.detach().abs() @ carried + layer.bias.detach().abs()
    assert Flow(model, ones(mlp)).run(lambda *_: None) == pytest.approx(float(carried.sum()))
    sums = [float(t.sum()) for t in Flow(model, ones(mlp), biases=False).scores().values()]
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-12)


@pytest.mark.parametrize("size", [-torch.inf, -1e4, torch.finfo(torch.float32).min])
def test_a_mask_that_is_a_buffer_stays_one(size):
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(4, 4, bias=False) for _ in range(3))
            self.register_buffer("mask", torch.full((5, 5), size).triu(1))

        def forward(self, x: Tensor) -> Tensor:
            scores = self.q(x) @ self.k(x).transpose(1, 2) / 2 + self.mask
            return (scores.softmax(-1) @ self.v(x))[:, 0]  # the first sees only itself

    model = Causal()
    given = Batch((torch.ones(1, 5, 4),))
    q, k, v = Flow(model, given, biases=False).scores().values()
    total = float(model.v.weight.detach().abs().double().sum())
    assert [float(t.sum()) for t in (q, k, v)] == pytest.approx([total] * 3, rel=1e-6)


# Attention and normalisation


def test_in_attention_each_projection_carries_the_same():
    model = build(Transformer).double()
    scores = Flow(model, Batch((torch.ones(1, 5, 8),)), biases=False).scores()
    q, k, v = (float(part.sum()) for part in scores["layer.self_attn.in_proj_weight"].chunk(3))
    out = float(scores["layer.self_attn.out_proj.weight"].sum())
    assert [q, k, v] == pytest.approx([out] * 3, rel=1e-10)
    assert float(scores["layer.linear1.weight"].sum()) == pytest.approx(float(scores["layer.linear2.weight"].sum()))
    assert all((tensor >= 0).all() for tensor in scores.values())


@pytest.mark.parametrize("kind", ["BERT", "ViT", "GPT-2"])
@pytest.mark.parametrize("norm", ["scale", "identity"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_in_transformers_each_projection_of_a_layer_carries_the_same(kind, norm, attention):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    if kind == "BERT":
        model = transformers.BertModel(transformers.BertConfig(vocab_size=9, attn_implementation=attention, **sizes))
        names = ["query", "key", "value", "attention.output.dense"]
        given = {"input_ids": torch.ones(1, 5).long(), "attention_mask": torch.tensor([[1, 1, 1, 0, 0]])}
    elif kind == "ViT":
        config = transformers.ViTConfig(image_size=8, patch_size=4, attn_implementation=attention, **sizes)
        model, given = transformers.ViTModel(config), {"pixel_values": torch.ones(1, 3, 8, 8)}
        names = ["q_proj", "k_proj", "v_proj", "o_proj"]
    else:
        config = transformers.GPT2Config(
            vocab_size=9, n_positions=8, n_embd=8, n_layer=2, n_head=2, attn_implementation=attention
        )
        model, given = transformers.GPT2Model(config), {"input_ids": torch.ones(1, 5).long()}
        names = ["c_attn", "attn.c_proj"]
    scores = Flow(model, Batch((), given), norm=norm, biases=False).scores()
    assert all((tensor >= 0).all() for tensor in scores.values())
    for layer in ("layer.0.", "layers.0.", "h.0."):
        here = {name: tensor for name, tensor in scores.items() if f".{layer}" in f".{name}"}
        if not here:
            continue
        found = [next(t for n, t in here.items() if part in n) for part in names]
        if kind == "GPT-2":  # Conv1D: (in, out), the three side by side
            found = [*found[0].chunk(3, 1), found[1]]
        sums = [float(tensor.sum()) for tensor in found]
        assert sums == pytest.approx([sums[0]] * 4, rel=1e-9)
        assert sums[0] > 0
        break
    else:
        raise AssertionError(list(scores))


@pytest.mark.parametrize("norm", ["scale", "identity"])
def test_a_chain_with_norms_and_activations_conserves_flow(norm):
    layers = [
        *(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh()),
        *(nn.Linear(5, 6), nn.GroupNorm(2, 6), nn.SiLU(), nn.Dropout(), nn.Linear(6, 3), nn.LogSoftmax(-1)),
    ]
    model = nn.Sequential(*layers).double()
    flow = Flow(model, Batch((torch.ones(1, 4),)), norm=norm, biases=False)
    total = flow.run(lambda *_: None)
    assert [float(t.sum()) for t in flow.scores().values()] == pytest.approx([total] * 4, rel=1e-10)


# What it refuses


def test_bad_options_and_models_get_one_line():
    given = Batch((torch.ones(1, 5),))
    with pytest.raises(Invalid, match="norm is 'none'; allowed: scale, identity"):
        Flow(mlp(), given, norm="none")
    with pytest.raises(Invalid, match=r"Sequential does not take a float32 tensor of shape \(1, 4\): mat1 and mat2"):
        Flow(mlp(), Batch((torch.ones(1, 4),))).scores()
    with pytest.raises(Invalid, match="Words gives no floating-point tensors, so no flow"):
        Flow(Words(nn.Linear(5, 2)), given).scores()


class Words(nn.Sequential):
    def forward(self, x: Tensor) -> str:
        return f"{super().forward(x).argmax()}"


def test_after_an_error_nothing_is_left_behind():
    model = tiny(mlp)
    flow = Flow(model, ones(mlp))
    expected = flow.scores()

    def broken(name: str, weight: Tensor, gradient: Tensor) -> None:
        raise KeyError(name)

    with pytest.raises(KeyError):
        flow.run(broken)
    assert all(weight.grad is None and not weight.requires_grad for weight in flow.weights.values())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in flow.scores().items())
    assert all(parameter.grad is None for parameter in model.parameters())
