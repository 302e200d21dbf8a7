"""`Linearised`: while it is active, every operation passes on what it gets in proportion.

Synaptic flow is conserved where f(x) = f'(x)·x. Linear layers, convolutions, sums, pooling and ReLU are so already.
Within `with Linearised():` the other parts of a network are taken as follows, in any model, without a change to it:

- normalisation multiplies by a constant: BatchNorm by |γ| / √(var + ε) of its running statistics, all others
  (LayerNorm, GroupNorm, RMSNorm, …) by |γ| / the size of what they get; nothing is shifted. Or it does nothing;
- activations (GELU, SiLU, tanh, ReLU6, …) do nothing, nor does clamping; gates (sigmoid) multiply by the constant
  σ(x) / x, so that what is gated and the gate each carry all that flows through both;
- attention adds up the values in proportion to the scores themselves, softmax(QKᵀ) being QKᵀ / Σ QKᵀ with a constant
  denominator: so queries, keys and values each carry all of what flows through a head;
- embeddings are ones: what a network is given is ones in each place; rotary embeddings do not rotate (cos is 1 and
  sin is 0 of what does not depend on the weights);
- dropout does nothing.

The constants are those of the pass itself. It is meant for networks of non-negative weights and inputs.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
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
        model: whose activations of Transformers are found beforehand. Default: they are looked for in every module
            that runs, which torch warns of where modules are compiled.
    """

    def __init__(self, norm: str = "scale", model: nn.Module | None = None) -> None:
        super().__init__()
        self._model = model
        self._rules = {**_RULES, **(dict.fromkeys(_SCALED, _input) if norm == "identity" else _SCALED)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation of the forward pass."""
        rule = self._rules.get(func)
        return func(*args, **(kwargs or {})) if rule is None else rule(*args, **(kwargs or {}))

    def __enter__(self) -> "Linearised":
        if self._model is None:
            self._hooks = [register_module_forward_hook(_pass_by)]
        else:
            self._hooks = [m.register_forward_hook(_pass_by) for m in self._model.modules() if _is_activation(m)]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*error)


def _is_activation(module: nn.Module) -> bool:
    """Transformers' activations are written out in many operations, so they are known by their class."""
    return type(module).__module__ == "transformers.activations"


def _pass_by(module: nn.Module, args: tuple[Any, ...], _output: Any) -> Any:
    return args[0] if len(args) == 1 and _is_activation(module) else None


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
    least = torch.finfo(input.dtype).eps if eps is None else eps
    normal = _sized(input, tuple(range(-len(normalized_shape), 0)), least)
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
    if running_var is not None and not use_input_stats:
        return _batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
    return _by_channel(_sized(input, tuple(range(2, input.dim())), eps), weight)


def _local_response_norm(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    there = input.detach()
    return input * torch.where(there == 0, 1.0, F.local_response_norm(there, *args, **kwargs) / there)


def _sized(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """The tensor over its root mean square, a constant."""
    return x / (x.detach().square().mean(dims, keepdim=True) + eps).sqrt()


def _by_channel(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale.abs().view(1, -1, *[1] * (x.dim() - 2))


def _normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    return input / input.detach().norm(p, dim, keepdim=True).clamp_min(eps)


def _sigmoid(input: Tensor, *_: Any, **__: Any) -> Tensor:
    return input * torch.where(input == 0, 0.25, torch.sigmoid(input) / input).detach()


def _sigmoid_(input: Tensor) -> Tensor:
    return input.copy_(_sigmoid(input.clone()))


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    passed, gate = input.chunk(2, dim)
    return passed * _sigmoid(gate)


def _softmax(input: Tensor, dim: int | None = None, *_: Any, **__: Any) -> Tensor:
    """In proportion to what is given; what a mask has put far below zero gets nothing."""
    positive = input.clamp(min=0)
    total = positive.detach().sum(-1 if dim is None else dim, keepdim=True)
    return positive / total.clamp_min(torch.finfo(total.dtype).tiny)


def _constant(func: Rule) -> Rule:
    return lambda x, *_, **__: func(x.detach())


def _unless_constant(func: Rule) -> Rule:
    """Of what depends on the weights: itself."""
    return lambda x, *args, **kwargs: x if x.requires_grad else func(x, *args, **kwargs)


def _embedding(input: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
    return weight.new_ones(*input.shape, weight.shape[1])


def _embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    bags = len(input) if offsets is None else len(offsets) - include_last_offset
    return weight.new_ones(bags, weight.shape[1])


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
    return _shares(query, key, attn_mask, is_causal, scale) @ value


def _shares(
    query: Tensor, key: Tensor, mask: Tensor | None, causal: bool = False, scale: float | None = None
) -> Tensor:
    """Which part of each value a query gets."""
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    return _softmax(_masked(scores, mask, causal))


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
    attend: Rule = _attention,
) -> tuple[Tensor, Tensor | None]:
    """`nn.MultiheadAttention`, (sequence, batch, features) in and out, by a rule for attention itself."""
    separate = (q_proj_weight, k_proj_weight, v_proj_weight)
    weights = separate if use_separate_proj_weight or in_proj_weight is None else in_proj_weight.chunk(3)
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    batched = query.dim() == 3
    q, k, v = (
        F.linear(x if batched else x.unsqueeze(1), w, b)  # pyright: ignore
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )
    masks = [_added(attn_mask, q), _added(key_padding_mask, q)]
    if masks[0] is not None and masks[0].dim() == 3:
        masks[0] = masks[0].view(-1, num_heads, *masks[0].shape[1:])
    if masks[1] is not None:
        masks[1] = masks[1].view(-1, 1, 1, masks[1].shape[-1])
    if bias_k is not None and bias_v is not None:
        k, v = (torch.cat([x, b.expand(1, *x.shape[1:])]) for x, b in ((k, bias_k), (v, bias_v)))
        masks = [None if mask is None else F.pad(mask, (0, 1)) for mask in masks]
    present = [mask for mask in masks if mask is not None]
    mask = sum(present[1:], present[0]) if present else None
    q, k, v = (_heads(x, num_heads) for x in (q, k, v))  # `add_zero_attn` adds a key of zeros, which gets no share
    out = F.linear(attend(q, k, v, attn_mask=mask).permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias)
    shares = _shares(q, k, mask) if need_weights else None
    if shares is not None and average_attn_weights:
        shares = shares.mean(1)
    return (out, shares) if batched else (out.squeeze(1), None if shares is None else shares.squeeze(0))


def _added(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """A mask as what is added to scores; a bool one is True where there is to be no attention."""
    if mask is None or mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -torch.inf)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(sequence, batch, features) as (batch, head, sequence, features of the head)."""
    return x.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)


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
    torch.instance_norm: _instance_norm,
    F.local_response_norm: _local_response_norm,
    F.normalize: _normalize,
}

_PASSED_BY = (
    *(F.gelu, F.silu, F.mish, F.elu, F.selu, F.celu, F.softplus, F.softsign, F.logsigmoid, F.prelu, F.rrelu),
    *(F.elu_, F.selu_, F.celu_, F.rrelu_, F.hardtanh_, torch.selu, torch.celu, torch.rrelu, torch.prelu),
    *(torch.selu_, torch.celu_, torch.rrelu_, Tensor.prelu),
    *(F.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_, F.hardtanh, F.relu6, F.hardswish),
    *(F.tanhshrink, F.softshrink, F.hardshrink, torch.hardshrink, Tensor.hardshrink),
    *(F.threshold, torch.threshold, torch.threshold_),
    *(F.log_softmax, torch.log_softmax, torch.special.log_softmax, Tensor.log_softmax),
    *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout),
)
_SIGMOIDS = (torch.sigmoid, Tensor.sigmoid, torch.special.expit, F.sigmoid, F.hardsigmoid)
_SOFTMAXES = (F.softmax, F.softmin, torch.softmax, torch.special.softmax, Tensor.softmax)
_CLAMPS = (torch.clamp, Tensor.clamp, torch.clip, Tensor.clip, torch.clamp_max, Tensor.clamp_max)

_RULES: dict[Any, Rule] = {
    **dict.fromkeys(_PASSED_BY, _input),
    **dict.fromkeys(_SIGMOIDS, _sigmoid),
    **dict.fromkeys((torch.sigmoid_, Tensor.sigmoid_), _sigmoid_),
    F.glu: _glu,
    **dict.fromkeys(_SOFTMAXES, _softmax),
    **dict.fromkeys((torch.rsqrt, Tensor.rsqrt), _constant(torch.rsqrt)),
    **dict.fromkeys((torch.erf, Tensor.erf, torch.special.erf), _constant(torch.erf)),
    **{clamp: _unless_constant(clamp) for clamp in _CLAMPS},
    **dict.fromkeys((torch.cos, Tensor.cos), _unless_constant(torch.ones_like)),
    **dict.fromkeys((torch.sin, Tensor.sin), _unless_constant(torch.zeros_like)),
    F.embedding: _embedding,
    F.embedding_bag: _embedding_bag,
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multi_head,
}
