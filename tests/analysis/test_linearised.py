"""Every operation passes on what it gets in proportion: gradient · input = output (Euler), module by module."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.analysis.linearised import Linearised

VECTORS, SEQUENCES, IMAGES, VOLUMES = (3, 8), (2, 8, 7), (2, 8, 6, 6), (2, 8, 4, 4, 4)


def positive(*shape: int, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=draws, dtype=torch.float64) + 0.1


def prepared(module: nn.Module) -> nn.Module:
    """In float64 and evaluation mode, with positive parameters and statistics that are none of the defaults."""
    module = module.double().eval()
    with torch.no_grad():
        for number, tensor in enumerate([*module.parameters(), *module.buffers()]):
            if tensor.is_floating_point():
                tensor.copy_(positive(*tensor.shape, seed=number + 1) if tensor.dim() else tensor)
    return module


def passed_on(call: Callable[..., Tensor], *inputs: Tensor, norm: str = "scale") -> tuple[float, list[float], float]:
    """What comes out in all; gradient · input of each input; and the smallest gradient."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    with Linearised(norm):
        out = call(*leaves).sum()
    gradients = torch.autograd.grad(out, leaves)
    flows = [float((g * x).detach().sum()) for g, x in zip(gradients, leaves, strict=True)]
    return float(out.detach()), flows, min(float(g.min()) for g in gradients)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    name: getattr(nn, name)
    for name in (
        *("CELU", "ELU", "GELU", "Hardshrink", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid", "Mish", "PReLU"),
        *("ReLU", "ReLU6", "RReLU", "SELU", "SiLU", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink"),
        *("Dropout", "AlphaDropout", "FeatureAlphaDropout", "Identity"),
    )
}
ACTIVATIONS |= {
    "GELU by tanh": lambda: nn.GELU("tanh"),
    "Threshold": lambda: nn.Threshold(0.5, 2.0),
    "LogSoftmax": lambda: nn.LogSoftmax(-1),
}
INPLACE = ["CELU", "ELU", "Hardtanh", "Hardswish", "LeakyReLU", "Mish", "ReLU", "ReLU6", "RReLU", "SELU", "SiLU"]


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("by", [1e-3, 1.0, 1e3])
def test_activations_do_nothing(name, by):
    x = positive(*VECTORS) * by
    with Linearised():
        assert torch.equal(prepared(ACTIVATIONS[name]())(x), x)


@pytest.mark.parametrize("name", INPLACE)
def test_activations_in_place_do_nothing(name):
    layer = prepared(nn.Linear(8, 5, bias=False))
    x = positive(*VECTORS)
    with Linearised():
        assert torch.equal(nn.Sequential(layer, getattr(nn, name)(inplace=True))(x), layer(x))


@pytest.mark.parametrize(
    "function",
    [
        *(torch.tanh, torch.selu, torch.celu, torch.clamp, F.tanh, F.relu6, F.hardtanh_, F.elu_, F.selu_),
        *(Tensor.tanh, Tensor.tanh_, Tensor.clamp, Tensor.clip, torch.clamp_max, F.dropout, torch.special.log_softmax),
    ],
)
def test_functions_do_nothing_either(function):
    x = (positive(*VECTORS) * 10).requires_grad_()
    more = {"clamp": (0, 6), "clip": (0, 6), "clamp_max": (6,), "special_log_softmax": (-1,)}
    with Linearised():
        out = function(x * 1, *more.get(function.__name__, ()))
    assert torch.equal(out, x)


GATES = {
    "Sigmoid": nn.Sigmoid,
    "Hardsigmoid": nn.Hardsigmoid,
    "Softmax": lambda: nn.Softmax(-1),
    "Softmin": lambda: nn.Softmin(-1),
    "Softmax2d": nn.Softmax2d,
}


@pytest.mark.parametrize("name", GATES)
def test_gates_and_shares_pass_on_what_they_give(name):
    x = positive(*IMAGES if name == "Softmax2d" else VECTORS)
    out, (flow,), least = passed_on(prepared(GATES[name]()), x)
    assert flow == pytest.approx(out, rel=1e-12)
    assert least >= 0
    if "igmoid" in name:  # the value is the true one
        assert out == pytest.approx(float(torch.sigmoid(x).sum()))


def test_a_gate_and_what_it_gates_each_carry_all():
    x, gate = positive(3, 4), positive(3, 4, seed=1)
    for call in (lambda x, g: x * torch.sigmoid(g), lambda x, g: F.glu(torch.cat([x, g], -1))):
        out, flows, _ = passed_on(call, x, gate)
        assert out == pytest.approx(float((x * torch.sigmoid(gate)).sum()))
        assert flows == pytest.approx([out, out], rel=1e-12)


def test_a_sigmoid_in_place_is_one():
    x = positive(*VECTORS)
    with Linearised():
        y = x.clone()
        y.sigmoid_()
    assert torch.allclose(y, x.sigmoid())


NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(8), VECTORS),
    "BatchNorm1d of sequences": (lambda: nn.BatchNorm1d(8), SEQUENCES),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(8), IMAGES),
    "BatchNorm2d without γ and β": (lambda: nn.BatchNorm2d(8, affine=False), IMAGES),
    "BatchNorm2d without statistics": (lambda: nn.BatchNorm2d(8, track_running_stats=False), IMAGES),
    "BatchNorm2d of averages": (lambda: nn.BatchNorm2d(8, momentum=None, eps=0.1), IMAGES),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(8), VOLUMES),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(8), IMAGES),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(8), SEQUENCES),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(8, affine=True), IMAGES),
    "InstanceNorm2d with statistics": (lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True), IMAGES),
    "InstanceNorm3d": (lambda: nn.InstanceNorm3d(8), VOLUMES),
    "LayerNorm": (lambda: nn.LayerNorm(8), VECTORS),
    "LayerNorm of images": (lambda: nn.LayerNorm((6, 6)), IMAGES),
    "LayerNorm without β": (lambda: nn.LayerNorm(8, bias=False), VECTORS),
    "LayerNorm without γ and β": (lambda: nn.LayerNorm(8, elementwise_affine=False), VECTORS),
    "RMSNorm": (lambda: nn.RMSNorm(8, eps=1e-6), VECTORS),
    "RMSNorm without γ": (lambda: nn.RMSNorm(8, elementwise_affine=False), VECTORS),
    "GroupNorm": (lambda: nn.GroupNorm(4, 8), IMAGES),
    "GroupNorm of vectors": (lambda: nn.GroupNorm(2, 8), VECTORS),
    "GroupNorm without γ and β": (lambda: nn.GroupNorm(2, 8, affine=False), IMAGES),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(3, alpha=0.5), IMAGES),
}
BY_STATISTICS = [name for name in NORMS if "Batch" in name or "with statistics" in name]


@pytest.mark.parametrize("name", NORMS)
def test_normalisation_multiplies_by_a_constant(name):
    make, shape = NORMS[name]
    module, x = prepared(make()), positive(*shape)
    out, (flow,), least = passed_on(module, x)
    assert flow == pytest.approx(out, rel=1e-12)
    assert least >= 0
    assert passed_on(module, x, norm="identity")[0] == pytest.approx(float(x.sum()), rel=1e-12)


@pytest.mark.parametrize("name", [name for name in BY_STATISTICS if "without statistics" not in name])
def test_batchnorm_multiplies_by_gamma_over_the_deviation_and_shifts_nothing(name):
    make, shape = NORMS[name]
    module, x = prepared(make()), positive(*shape)
    scale = 1 / (module.running_var + module.eps).sqrt()
    scale = scale if module.weight is None else scale * module.weight
    with Linearised():
        out, thrice = module(x), module(3 * x)
    torch.testing.assert_close(out, x * scale.view(1, -1, *[1] * (x.dim() - 2)), rtol=1e-12, atol=0)
    torch.testing.assert_close(thrice, 3 * out, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", [name for name in NORMS if name not in BY_STATISTICS and "Local" not in name])
def test_other_norms_bring_what_they_get_to_size_one(name):
    make, shape = NORMS[name]
    module, x = prepared(make()), positive(*shape)
    with torch.no_grad(), Linearised():
        for parameter in module.parameters():
            parameter.fill_(1)
        out = module(1e6 * x)
    assert float(out.square().mean()) == pytest.approx(1)
    assert (out > 0).all()


def test_norms_of_what_carries_nothing_are_nothing():
    for name in ("RMSNorm", "RMSNorm without γ", "LayerNorm", "GroupNorm", "InstanceNorm2d", "LocalResponseNorm"):
        make, shape = NORMS[name]
        with Linearised():
            assert not prepared(make())(torch.zeros(*shape, dtype=torch.float64)).any(), name


def test_norms_written_out_by_hand_are_constants_too():
    weight = positive(8)

    def rms(x: Tensor) -> Tensor:  # as in Llama
        return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.erf(x / 2**0.5))

    for call in (rms, gelu, lambda x: F.normalize(x, dim=-1)):
        out, (flow,), _ = passed_on(call, positive(*VECTORS))
        assert flow == pytest.approx(out, rel=1e-12)


LINEAR: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MaxPool2d": (lambda: nn.MaxPool2d(2), IMAGES),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, 1), IMAGES),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d(2), IMAGES),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d(4), IMAGES),
    "LPPool2d": (lambda: nn.LPPool2d(2, 2), IMAGES),
    "FractionalMaxPool2d": (lambda: nn.FractionalMaxPool2d(2, 3), IMAGES),
    "Upsample": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), IMAGES),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), IMAGES),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(2), IMAGES),
    "ReflectionPad2d": (lambda: nn.ReflectionPad2d(1), IMAGES),
    "Unfold": (lambda: nn.Unfold(3), IMAGES),
    "Conv2d in groups": (lambda: nn.Conv2d(8, 4, 3, groups=2, bias=False), IMAGES),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(8, 4, 3, stride=2, bias=False), IMAGES),
    "Linear": (lambda: nn.Linear(8, 3, bias=False), VECTORS),
}


@pytest.mark.parametrize("name", LINEAR)
def test_what_is_in_proportion_already_is_left_as_it_is(name):
    make, shape = LINEAR[name]
    module, x = prepared(make()), positive(*shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        out, (flow,), _ = passed_on(module, x)
        torch.manual_seed(0)
        assert out == float(module(x).detach().sum())
        torch.manual_seed(0)
        assert passed_on(lambda x: module(3 * x), x)[0] == pytest.approx(3 * out, rel=1e-12)
    assert flow == pytest.approx(out, rel=1e-12)


def test_embeddings_are_ones():
    with Linearised():
        assert torch.equal(nn.Embedding(9, 4, padding_idx=0)(torch.tensor([[3, 0]])), torch.ones(1, 2, 4))
        assert torch.equal(nn.EmbeddingBag(9, 4)(torch.tensor([[3, 0, 1]] * 2)), torch.ones(2, 4))
        assert torch.equal(nn.EmbeddingBag(9, 4)(torch.tensor([3, 0, 1]), torch.tensor([0, 2])), torch.ones(2, 4))
        ends = nn.EmbeddingBag(9, 4, include_last_offset=True)
        assert torch.equal(ends(torch.tensor([3, 0, 1]), torch.tensor([0, 2, 3])), torch.ones(2, 4))


def test_rotations_of_constants_do_not_rotate_and_waves_as_activations_do_nothing():
    angles = torch.arange(4.0)
    with Linearised():
        assert torch.equal(angles.cos(), torch.ones(4))
        assert torch.equal(torch.sin(angles), torch.zeros(4))
        x = positive(4).requires_grad_()
        assert torch.equal(torch.sin(x), x)


# Attention


def attentions() -> Iterator[tuple[str, nn.MultiheadAttention]]:
    yield "one weight", nn.MultiheadAttention(8, 2, bias=False)
    yield "three weights", nn.MultiheadAttention(8, 2, bias=False, kdim=6, vdim=4)
    yield "zero attention", nn.MultiheadAttention(8, 2, bias=False, add_zero_attn=True)
    yield "batch first", nn.MultiheadAttention(8, 4, bias=False, batch_first=True, dropout=0.5)


MASKS: dict[str, dict] = {
    "none": {},
    "causal": {"attn_mask": torch.ones(5, 5).triu(1).bool()},
    "causal, added": {"attn_mask": torch.full((5, 5), -torch.inf).triu(1).double()},
    "a head": {"attn_mask": torch.ones(6, 5, 5).triu(1).bool()},
    "padding": {"key_padding_mask": torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] + [True] * 4])},
    "both": {
        "attn_mask": torch.ones(5, 5).triu(1).bool(),
        "key_padding_mask": torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] + [True] * 4]),
    },
}


@pytest.mark.parametrize("name", [name for name, _ in attentions()])
@pytest.mark.parametrize("masked", MASKS)
def test_queries_keys_and_values_each_carry_all_that_flows_through_attention(name, masked):
    module = prepared(dict(attentions())[name])
    mask = dict(MASKS[masked])
    if masked == "a head" and name == "batch first":
        mask["attn_mask"] = torch.ones(12, 5, 5).triu(1).bool()
    q, k, v = (positive(5, 3, size, seed=s) for s, size in enumerate((8, module.kdim, module.vdim)))
    if module.batch_first:
        q, k, v = (x.transpose(0, 1).contiguous() for x in (q, k, v))
    for weights in (True, False):
        out, flows, least = passed_on(lambda *qkv: module(*qkv, need_weights=weights, **mask)[0], q, k, v)  # noqa: B023
        assert flows == pytest.approx([out] * 3, rel=1e-12)
        assert least >= 0
    # the input weights of each, and those of the output
    with Linearised():
        module(q, k, v, **mask)[0].sum().backward()
    parts = [module.in_proj_weight] if module.in_proj_weight is not None else [
        module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]  # fmt: skip
    carried = [float((w * w.grad).detach()[rows].sum()) for w in parts for rows in (
        [slice(0, 8), slice(8, 16), slice(16, 24)] if len(parts) == 1 else [slice(None)])]  # fmt: skip
    assert carried == pytest.approx([out] * 3, rel=1e-12)
    assert float((module.out_proj.weight * module.out_proj.weight.grad).detach().sum()) == pytest.approx(out, rel=1e-12)


def test_shares_are_in_proportion_to_scores_and_none_is_masked():
    module = prepared(nn.MultiheadAttention(8, 2, bias=False, batch_first=True))
    x = positive(3, 5, 8)
    with Linearised():
        _, shares = module(x, x, x, **MASKS["both"])
        _, by_head = module(x, x, x, average_attn_weights=False)
        alone, single = module(x[0], x[0], x[0])
    assert torch.allclose(shares.sum(-1), torch.ones(3, 5, dtype=torch.float64))
    assert not shares[:, MASKS["both"]["attn_mask"]].any()
    assert not shares[MASKS["both"]["key_padding_mask"][:, None].expand(3, 5, 5)].any()
    q, k = (x @ w.T for w in module.in_proj_weight.chunk(3)[:2])
    scores = torch.einsum("bqhd,bkhd->bhqk", q.view(3, 5, 2, 4), k.view(3, 5, 2, 4))
    assert torch.allclose(by_head, scores / scores.sum(-1, keepdim=True))
    with Linearised():
        assert torch.allclose(alone, module(x, x, x)[0][0])
    assert torch.allclose(single, by_head[0].mean(0))


def test_keys_and_values_of_its_own_take_part():
    module = prepared(nn.MultiheadAttention(8, 2, bias=False, add_bias_kv=True))
    q, k, v = (positive(5, 3, 8, seed=s) for s in range(3))
    out, flows, _ = passed_on(lambda *qkv: module(*qkv, **MASKS["both"])[0], q, k, v)
    assert flows[0] == pytest.approx(out, rel=1e-12)
    assert flows[1] < out
    with Linearised():
        module(q, k, v, **MASKS["both"])[0].sum().backward()
    for own, flow in ((module.bias_k, flows[1]), (module.bias_v, flows[2])):
        assert flow + float((own * own.grad).detach().sum()) == pytest.approx(out, rel=1e-12)


@pytest.mark.parametrize(
    "given", [{}, {"is_causal": True}, {"scale": 0.7}, {"attn_mask": torch.ones(5, 5).tril().bool()}]
)
@pytest.mark.parametrize("shared", [False, True])
def test_attention_as_a_function(given, shared):
    q, k, v = positive(2, 4, 5, 8), *(positive(2, 2 if shared else 4, 5, 8, seed=s) for s in (1, 2))
    attend = F.scaled_dot_product_attention
    out, flows, least = passed_on(lambda *qkv: attend(*qkv, enable_gqa=shared, **given), q, k, v)
    assert flows == pytest.approx([out] * 3, rel=1e-12)
    assert least >= 0


def test_attention_of_tiny_scores_is_still_in_proportion():
    q, k, v = (positive(2, 5, 8, seed=s) for s in range(3))
    with Linearised():
        expected = F.scaled_dot_product_attention(q, k, v)
        found = F.scaled_dot_product_attention(q * 1e-30, k * 1e-30, v)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("first", [True, False])
def test_whole_transformer_layers(first):
    options = {"batch_first": True, "norm_first": first, "activation": "gelu", "bias": False}
    encoder = prepared(
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, **options), 2, enable_nested_tensor=False)
    )
    decoder = prepared(nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, **options), 2))
    x, y = positive(3, 5, 8), positive(3, 4, 8, seed=1)
    pad = MASKS["padding"]["key_padding_mask"]
    causal = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    calls = (
        lambda x: encoder(x, mask=causal, src_key_padding_mask=pad.double() * -1e9),
        lambda x: decoder(x, y, tgt_mask=causal, tgt_is_causal=True),
    )
    for call, last in zip(calls, (encoder.layers[-1], decoder.layers[-1]), strict=True):
        out, _, least = passed_on(call, x)
        assert least >= 0
        with Linearised():
            call(x).sum().backward()
        first, second = last.linear1.weight, last.linear2.weight  # with no bias and a passive activation
        flows = [float((w * w.grad).detach().sum()) for w in (first, second)]
        assert flows[0] == pytest.approx(flows[1], rel=1e-12)
        assert 0 < flows[1] < out


# The mode itself


def test_outside_of_it_nothing_is_changed():
    x = positive(*VECTORS)
    with Linearised():
        pass
    assert torch.equal(torch.tanh(x), x.tanh())
    assert not torch.equal(torch.tanh(x), x)
    with pytest.raises(KeyError), Linearised():
        raise KeyError
    assert not torch.nn.modules.module._has_any_global_hook()


def test_activations_of_transformers_are_known_by_their_class():
    activations = pytest.importorskip("transformers.activations")
    x = positive(*VECTORS)
    for name in ("gelu_new", "gelu_fast", "quick_gelu", "gelu", "silu", "relu2", "mish"):
        module = nn.Sequential(activations.get_activation(name))
        for given in ((), ("scale", module)):
            with Linearised(*given):
                assert torch.equal(module(x), x), name
        assert not module[0]._forward_hooks
