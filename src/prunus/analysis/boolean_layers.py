"""What attention, embeddings, normalisation and pooling do to paths (see `Boolean`)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prunus.analysis.boolean_values import OPEN, SHUT, flags, product, weighted

# Attention: its weights are never zero but where a mask hides, so values pass also where no score arrives


def softmax(input: Tensor, *_: Any, **__: Any) -> Tensor:
    return (flags(input) + OPEN).masked_fill(input.detach() < SHUT, 0.0)


def attention(
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
    scores = product(query, key.transpose(-2, -1), by=torch.matmul)
    if is_causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -float("inf"))
    if attn_mask is not None:
        hidden = ~attn_mask if attn_mask.dtype == torch.bool else _hidden(attn_mask)
        scores = scores.masked_fill(hidden, -float("inf"))
    return product(softmax(scores), value, by=torch.matmul)


def multi_head(
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
    out_proj_bias: Tensor | None = None,
    *_: Any,
    attn_mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    **separate: Any,
) -> tuple[Tensor, None]:
    """`nn.MultiheadAttention`, (sequence, batch, features) in and out; no attention weights are handed back."""
    if use_separate_proj_weight or in_proj_weight is None:
        weights = tuple(separate[f"{part}_proj_weight"] for part in "qkv")
    else:
        weights = in_proj_weight.chunk(3)
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    batched = query.dim() == 3
    inputs = (x if batched else x.unsqueeze(1) for x in (query, key, value))
    q, k, v = (
        weighted(x, w, b, by=F.linear).unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3)  # (batch, head, place, unit)
        for x, w, b in zip(inputs, weights, biases, strict=True)
    )
    hidden = torch.zeros(q.shape[0], 1, 1, k.shape[2], dtype=torch.bool, device=q.device)
    if key_padding_mask is not None:
        hidden = hidden | _hidden(key_padding_mask).view(-1, 1, 1, k.shape[2])
    if attn_mask is not None:
        mask = _hidden(attn_mask)
        hidden = hidden | (mask.unflatten(0, (-1, num_heads)) if mask.dim() == 3 else mask)
    mixed = attention(q, k, v, ~hidden).permute(2, 0, 1, 3).flatten(2)
    out = weighted(mixed, out_proj_weight, out_proj_bias, by=F.linear)
    return out if batched else out.squeeze(1), None


def _hidden(mask: Tensor) -> Tensor:
    return mask if mask.dtype == torch.bool else mask < SHUT


# Inputs, normalisation, pooling


def embedding(input: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
    """Any row may be looked up, and each is an input of the network."""
    # torch.embedding has the two the other way round
    rows, places = (input, weight) if input.is_floating_point() else (weight, input)
    row = rows.sum(0) if rows.requires_grad else torch.ones_like(rows[0]).requires_grad_()
    return flags(row.expand(*places.shape, -1) + 0)


def embedding_bag(input: Tensor, weight: Tensor, offsets: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    ends = kwargs.get("include_last_offset", len(args) > 6 and args[6])
    return embedding(input[:, 0] if offsets is None else offsets[: len(offsets) - ends], weight)


def _affine(input: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """Only where scale or shift are followed themselves."""
    scaled = input * weight.view(shape) if weight is not None and weight.requires_grad else input
    return scaled + bias.view(shape) if bias is not None and bias.requires_grad else scaled


def batch_norm(
    input: Tensor, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, *_: Any, **__: Any
) -> Tensor:
    return _affine(input, weight, bias, (1, -1, *[1] * (input.dim() - 2)))


def group_norm(input: Tensor, num_groups: int, weight: Any = None, bias: Any = None, *_: Any, **__: Any) -> Tensor:
    return _affine(input, weight, bias, (1, -1, *[1] * (input.dim() - 2)))


def layer_norm(
    input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, *_: Any, **__: Any
) -> Tensor:
    return _affine(input, weight, bias, tuple(normalized_shape))


def rms_norm(input: Tensor, normalized_shape: Any, weight: Any = None, *_: Any, **__: Any) -> Tensor:
    return _affine(input, weight, None, tuple(normalized_shape))


def max_pool(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    dims: int,
) -> Any:
    """The sums of the windows: a convolution with ones, padded at the end as far as the last window reaches."""
    pool, convolve = ((F.max_pool1d, F.conv1d), (F.max_pool2d, F.conv2d), (F.max_pool3d, F.conv3d))[dims - 1]
    most, places = pool(input.detach(), kernel_size, stride, padding, dilation, ceil_mode, return_indices=True)
    size, step, before, gap = (_each_side(v, dims) for v in (kernel_size, stride or kernel_size, padding, dilation))
    sides: list[int] = []
    for i in reversed(range(dims)):
        reach = (most.shape[i - dims] - 1) * step[i] + gap[i] * (size[i] - 1) + 1
        sides += [before[i], reach - before[i] - input.shape[i - dims]]  # negative where the last pixels are not used
    alone = F.pad(input.clamp(min=0).flatten(0, -dims - 1).unsqueeze(1), sides)
    sums = convolve(alone, alone.new_ones(1, 1, *size), None, step, 0, gap).reshape(most.shape)
    return (sums, places) if return_indices else sums


def _each_side(value: Any, dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value) * (dims // len(value))


def adaptive_max_pool(input: Tensor, output_size: Any, return_indices: bool = False, *, dims: int) -> Any:
    pool, average = (
        (F.adaptive_max_pool1d, F.adaptive_avg_pool1d),
        (F.adaptive_max_pool2d, F.adaptive_avg_pool2d),
        (F.adaptive_max_pool3d, F.adaptive_avg_pool3d),
    )[dims - 1]
    means = average(input, output_size)
    return (means, pool(input.detach(), output_size, True)[1]) if return_indices else means
