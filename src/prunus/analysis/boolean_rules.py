"""What each operation of a network does to paths: the rules of `Boolean`, by name.

A rule gets at least one tensor that is followed. Operations without a rule compute as always. What comes out is brought
back to the values of `boolean_values` afterwards.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prunus.analysis import boolean_layers as layers
from prunus.analysis.boolean_values import OPEN, Rule, level, product, weighted

# One thing in, one out


def _same(input: Tensor, *_: Any, **__: Any) -> Tensor:
    return input


def _opened(input: Tensor, *_: Any, **__: Any) -> Tensor:
    """f(x), where f(0) is not zero."""
    return input + OPEN


def _power(input: Any, exponent: Any = None, *_: Any, **__: Any) -> Tensor:
    return input if isinstance(input, Tensor) and input.requires_grad else _opened(exponent)


def _ones(input: Any, other: Any = None, *_: Any, **__: Any) -> Tensor:
    return torch.ones_like(input if isinstance(input, Tensor) else other).detach()


def _mean(input: Tensor, dim: Any = None, *_: Any, keepdim: bool = False, **__: Any) -> Tensor:
    return input.mean() if dim is None or isinstance(dim, bool) else input.mean(dim, keepdim=keepdim)


def _in_place(rule: Rule) -> Rule:
    return lambda input, *args, **kwargs: input.copy_(rule(input.clone(), *args, **kwargs))


# Sums: what is not followed (biases, positions, 1 − x) is no path


def _add(input: Any, other: Any, *_: Any, **__: Any) -> Tensor:
    return torch.add(level(input), level(other))


def _joined(tensors: Any, *args: Any, by: Rule, **kwargs: Any) -> Tensor:
    return by([level(tensor) for tensor in tensors], *args, **kwargs)


def _where(first: Tensor, *parts: Any) -> Any:
    """`where(condition, a, b)`, or `a.where(condition, b)`; with a condition alone its places."""
    if len(parts) < 2:
        return torch.where(first)
    condition, kept = (first, parts[0]) if first.dtype == torch.bool else (parts[0], first)
    return torch.where(condition, level(kept), level(parts[1]))


def _largest(input: Tensor, *args: Any, by: Rule, **kwargs: Any) -> Any:
    """`max`: all that is compared counts; the places are those of the largest."""
    if args and isinstance(args[0], Tensor):
        return _add(input, args[0])
    found = by(input, *args, **kwargs)
    if isinstance(found, Tensor):
        return input.sum()
    dim = kwargs.get("dim", args[0] if args else 0)
    keepdim = kwargs.get("keepdim", len(args) > 1 and args[1])
    return type(found)((input.sum(dim, keepdim=keepdim), found.indices))


# Products


def _multiply(input: Any, other: Any, *_: Any, by: Rule = torch.mul, **__: Any) -> Tensor:
    if isinstance(input, Tensor) and isinstance(other, Tensor):
        return product(input, other, by=by)
    tensor, number = (input, other) if isinstance(input, Tensor) else (other, input)
    return tensor if number else tensor * 0


def _divide(input: Any, other: Any, *_: Any, **__: Any) -> Tensor:
    if not isinstance(input, Tensor) or not input.requires_grad:
        return _ones(other)
    return torch.broadcast_tensors(input, other)[0] if isinstance(other, Tensor) else input


def _einsum(equation: Any, *operands: Any) -> Tensor:
    if not isinstance(equation, str):  # the form of tensors and lists of numbers in turn
        return torch.einsum(equation, *operands)
    parts = operands[0] if len(operands) == 1 and isinstance(operands[0], tuple | list) else operands
    return product(*parts, by=partial(torch.einsum, equation))


def _plus_product(input: Tensor, first: Tensor, second: Tensor, *_: Any, by: Rule, **__: Any) -> Tensor:
    return _add(input, product(first, second, by=by))


def _called(names: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


#: Rules by the name of the operation, whichever way it is written (`x.max()`, `torch.max(x)`).
RULES: dict[str, Rule] = {
    **_called("relu relu_ leaky_relu leaky_relu_ prelu rrelu relu6 tanh tanh_ erf threshold _threshold", _same),
    **_called("hardshrink softshrink clamp clamp_ clamp_min clip clip_ abs neg sqrt log log1p expm1 square", _same),
    **_called("sin round floor ceil trunc sign normalize local_response_norm", _same),
    "pow": _power,
    **_called("sigmoid hardsigmoid softplus exp cos log_sigmoid logsigmoid __rpow__", _opened),
    **_called("rsqrt reciprocal __rdiv__ __rtruediv__", _ones),
    **_called("amax amin var std logsumexp", _mean),
    **_called("add __radd__ sub __rsub__ rsub subtract maximum minimum", _add),
    **_called("add_ sub_", _in_place(_add)),
    **_called("cat concat concatenate", partial(_joined, by=torch.cat)),
    "stack": partial(_joined, by=torch.stack),
    "where": _where,
    "max": partial(_largest, by=torch.max),
    "min": partial(_largest, by=torch.min),
    **_called("mul __rmul__ multiply", _multiply),
    "mul_": _in_place(_multiply),
    **_called("div true_divide divide", _divide),
    "div_": _in_place(_divide),
    **_called("matmul __matmul__", partial(_multiply, by=torch.matmul)),
    "bmm": partial(_multiply, by=torch.bmm),
    "mm": partial(_multiply, by=torch.mm),
    "einsum": _einsum,
    "addmm": partial(_plus_product, by=torch.mm),
    "baddbmm": partial(_plus_product, by=torch.bmm),
    "linear": partial(weighted, by=F.linear),
    **{
        f"{kind}{d}d": partial(weighted, by=getattr(F, f"{kind}{d}d"))
        for kind in ("conv", "conv_transpose")
        for d in (1, 2, 3)
    },
    **_called("softmax softmin", layers.softmax),
    "scaled_dot_product_attention": layers.attention,
    "multi_head_attention_forward": layers.multi_head,
    **_called("batch_norm instance_norm", layers.batch_norm),
    "group_norm": layers.group_norm,
    "layer_norm": layers.layer_norm,
    "rms_norm": layers.rms_norm,
    "embedding": layers.embedding,
    "embedding_bag": layers.embedding_bag,
}
#: What is given as integers, of which no gradient tells that paths begin there.
LOOKED_UP = ("embedding", "embedding_bag")
for _dims in (1, 2, 3):
    for _suffix in ("", "_with_indices"):
        RULES[f"max_pool{_dims}d{_suffix}"] = partial(layers.max_pool, dims=_dims)
        RULES[f"adaptive_max_pool{_dims}d{_suffix}"] = partial(layers.adaptive_max_pool, dims=_dims)
