"""`Linearised`: while it is active, every operation passes on what it gets in proportion.

Synaptic flow is conserved where f(x) = f'(x)·x. Linear layers, convolutions, sums, pooling and ReLU are so already.
Within `with Linearised():` the other parts of a network are taken as follows, in any model, without a change to it:

- normalisation multiplies by a constant: BatchNorm by |γ| / √(var + ε) of its running statistics, all others
  (LayerNorm, GroupNorm, RMSNorm, …) by |γ| / the size of what they get; nothing is shifted. Or it does nothing;
- activations (GELU, SiLU, tanh, ReLU6, …) do nothing; gates (sigmoid) multiply by the constant σ(x) / x;
- attention adds up the values in proportion to the scores themselves, softmax(QKᵀ) being QKᵀ / Σ QKᵀ with a constant
  denominator: so queries, keys and values each carry all of what flows through a head;
- embeddings are ones: what a network is given is ones in each place;
- dropout does nothing.

The constants are those of the pass itself. It is meant for networks of non-negative weights and inputs.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode

#: What normalisation does to flow: multiply by a constant, or nothing.
Norm = Literal["scale", "identity"]
NORMS = ("scale", "identity")

Rule = Callable[..., Any]


class Linearised(TorchFunctionMode):
    """The mode; see the module.

    Args:
        norm: what normalisation does.
    """

    def __init__(self, norm: str = "scale") -> None:
        super().__init__()
        self._rules = {**_RULES, **(dict.fromkeys(_SCALED, _input) if norm == "identity" else _SCALED)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation of the forward pass."""
        rule = self._rules.get(func)
        return func(*args, **(kwargs or {})) if rule is None else rule(*args, **(kwargs or {}))

    def __enter__(self) -> "Linearised":
        self._hook = register_module_forward_hook(_pass_by)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._hook.remove()
        super().__exit__(*error)


def _pass_by(module: Any, args: tuple[Any, ...], _output: Any) -> Any:
    """Transformers' activations are written out in many operations, so they are known by their class."""
    return args[0] if type(module).__module__ == "transformers.activations" and len(args) == 1 else None


def _input(input: Tensor, *_: Any, **__: Any) -> Tensor:
    return input


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    if running_var is None:
        return _by_channel(_sized(input, (0, *range(2, input.dim())), eps), weight)
    return _by_channel(input, (running_var + eps).rsqrt() * (1 if weight is None else weight.abs()))


def _layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float | None = 1e-5,
    *_: Any,
) -> Tensor:
    normal = _sized(input, tuple(range(-len(normalized_shape), 0)), eps or 0.0)
    return normal if weight is None else normal * weight.abs()


def _rms_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    return _layer_norm(input, normalized_shape, weight, None, eps)


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    groups = input.reshape(input.shape[0], num_groups, -1)
    return _by_channel(_sized(groups, (-1,), eps).reshape(input.shape), weight)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    return _by_channel(_sized(input, tuple(range(2, input.dim())), eps), weight)


def _sized(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """The tensor over its root mean square, a constant."""
    return x / (x.detach().square().mean(dims, keepdim=True) + eps).sqrt()


def _by_channel(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale.abs().view(1, -1, *[1] * (x.dim() - 2))


def _normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    return input / input.detach().norm(p, dim, keepdim=True).clamp_min(eps)


def _sigmoid(input: Tensor, *_: Any, **__: Any) -> Tensor:
    return input * torch.where(input == 0, 0.25, torch.sigmoid(input) / input).detach()


def _softmax(input: Tensor, dim: int | None = None, *_: Any, **__: Any) -> Tensor:
    """In proportion to what is given; what a mask has put far below zero gets nothing."""
    positive = input.clamp(min=0)
    return positive / positive.detach().sum(-1 if dim is None else dim, keepdim=True).clamp_min(_LEAST)


def _constant(input: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.rsqrt(input).detach()


def _embedding(input: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
    return weight.new_ones(*input.shape, weight.shape[1])


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        shared = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(shared, -3), value.repeat_interleave(shared, -3)
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    return _softmax(_masked(scores, attn_mask, is_causal)) @ value


def _masked(scores: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    if causal:
        scores = scores * torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is None:
        return scores
    return scores * mask if mask.dtype == torch.bool else scores + mask


def _multi_head(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, None]:
    """`nn.MultiheadAttention`, (sequence, batch, features) in and out. No attention weights are handed back."""
    separate = (q_proj_weight, k_proj_weight, v_proj_weight)
    weights = separate if use_separate_proj_weight or in_proj_weight is None else in_proj_weight.chunk(3)
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    batched = query.dim() == 3
    parts = [
        _heads(F.linear(x if batched else x.unsqueeze(1), w, b), num_heads)  # pyright: ignore
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    ]
    mask = None if attn_mask is None else (~attn_mask if attn_mask.dtype == torch.bool else attn_mask)
    if mask is not None and mask.dim() == 3:
        mask = mask.view(-1, num_heads, *mask.shape[1:])
    mixed = _attention(*parts, attn_mask=mask)
    out = F.linear(mixed.permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias)
    return out if batched else out.squeeze(1), None


def _heads(x: Tensor, heads: int) -> Tensor:
    """(sequence, batch, features) as (batch, head, sequence, features of the head)."""
    return x.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)


_LEAST = 1e-30  # below what any sum of scores is, and not zero in 32 bits

_SCALED: dict[Any, Rule] = {
    F.batch_norm: _batch_norm,
    torch.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    torch.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    F.normalize: _normalize,
}

_PASSED_BY = (
    *(F.gelu, F.silu, F.mish, F.elu, F.selu, F.celu, F.softplus, F.softsign, F.logsigmoid, F.prelu, F.rrelu),
    *(F.tanh, torch.tanh, Tensor.tanh, F.hardtanh, F.relu6, F.hardswish, F.tanhshrink, F.log_softmax),
    *(torch.log_softmax, Tensor.log_softmax, torch.selu, torch.celu),
    *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout),
)

_RULES: dict[Any, Rule] = {
    **dict.fromkeys(_PASSED_BY, _input),
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid, F.sigmoid, F.hardsigmoid), _sigmoid),
    **dict.fromkeys((F.softmax, torch.softmax, Tensor.softmax), _softmax),
    **dict.fromkeys((torch.rsqrt, Tensor.rsqrt), _constant),
    F.embedding: _embedding,
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multi_head,
}
