"""Where a network multiplies by its weights, seen in one forward pass of any model.

A `Watch` is active during the pass and notes every linear layer, convolution and matrix product one factor of which is
a parameter, or was made from one (a slice, a transpose, a standardised weight).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

#: Which sides of a weight stand for outputs and inputs: linear (out, in), convolution (out, in of a group, …),
#: transposed convolution (in, out of a group, …), matrix (in, out); "other" where they are not told apart.
Kind = Literal["linear", "conv", "transposed", "matrix", "other"]


@dataclass(frozen=True)
class Product:
    """One multiplication by weights.

    Attributes:
        weight: the weights as they are multiplied: a view of a parameter, or made from one.
        kind: which of its sides are outputs and inputs.
        input: what it is multiplied with.
        uses: how often each weight is multiplied.
        bias: what is added by the same operation.
        groups: of a convolution.
    """

    weight: Tensor
    kind: Kind
    input: Tensor
    uses: int
    bias: Tensor | None = None
    groups: int = 1


class Watch(TorchFunctionMode):
    """Tells products of parameters, by name.

    Args:
        weights: the tensors that stand for parameters during the pass, by name.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._weights = dict(weights)
        self._owners: dict[int, list[str]] = {}
        self._made: list[Tensor] = []  # kept, so that no other tensor gets their memory
        for name, weight in weights.items():
            self._owners.setdefault(_memory(weight), []).append(name)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation of the forward pass."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in PRODUCTS:
            output = func(*args, **kwargs)
            found = products_of(name, args, kwargs, output)
            own = [(owner, product) for product in found if (owner := self.owner(product.weight))]
            if own:
                return self.multiplied(own, output)
        output = self.other(func, name, args, kwargs)
        if isinstance(output, Tensor):
            self._derive(args, output)
        return output

    def multiplied(self, products: list[tuple[str, Product]], output: Any) -> Any:  # noqa: ARG002
        """An operation that multiplies by parameters; what it gives to the model."""
        return output

    def other(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:  # noqa: ARG002
        """Any other operation; what it gives to the model."""
        return func(*args, **kwargs)

    def owner(self, tensor: Tensor) -> str | None:
        """The parameter that a tensor is (a part of), or was made from."""
        names = self._owners.get(_memory(tensor), [])
        if len(names) < 2:
            return names[0] if names else None
        return next((n for n in names if _starts_within(tensor, self._weights[n])), None)

    def part(self, name: str, tensor: Tensor) -> Callable[[Tensor], Tensor]:
        """A function from a tensor of the parameter's shape to the part of it that `tensor` is of the parameter."""
        weight = self._weights[name]
        shape, stride = tensor.shape, tensor.stride()
        if _memory(tensor) != _memory(weight):
            return lambda whole: whole.reshape(shape) if whole.numel() == tensor.numel() else whole
        offset = tensor.storage_offset() - weight.storage_offset()

        def view(whole: Tensor) -> Tensor:
            laid_out = torch.empty_like(weight, dtype=whole.dtype, device=whole.device).copy_(whole)
            return laid_out.as_strided(shape, stride, offset)

        return view

    def _derive(self, args: Any, output: Tensor) -> None:
        owned = [t for t in tensors_among(args) if self.owner(t)]
        if len(owned) == 1 and owned[0].numel() == output.numel() and _memory(output) != _memory(owned[0]):
            self._made.append(output)
            self._owners[_memory(output)] = [self.owner(owned[0]) or ""]


def products_of(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> list[Product]:
    """What the operation called `name` multiplies; either factor of a matrix product could be the weights."""
    if name == "linear":
        x, weight, bias = _bound(args, kwargs, "input", "weight", "bias")
        return [Product(weight, "linear", x, output.numel() // weight.shape[0], bias)]
    if name in _CONVS:
        x, weight, bias, *_, groups = _bound(args, kwargs, *_CONV_ARGUMENTS, "dilation", "groups")
        return [Product(weight, "conv", x, output.numel() // weight.shape[0], bias, groups or 1)]
    if name in _TRANSPOSED:
        x, weight, bias, *_, groups = _bound(args, kwargs, *_CONV_ARGUMENTS, "output_padding", "groups")
        return [Product(weight, "transposed", x, x.numel() // weight.shape[0], bias, groups or 1)]
    if name in _MATRIX:
        first, second = _bound(args, kwargs, "input", _MATRIX[name])
        return _matrices(first, second, None, output)
    if name in _PLUS_MATRIX:
        bias, first, second = _bound(args, kwargs, "input", *_PLUS_MATRIX[name])
        return _matrices(first, second, bias, output)
    if name == "einsum":
        return list(_einsum(output, *args))
    if name == "multi_head_attention_forward":
        return list(_multi_head(args, kwargs))
    return []


_CONVS = ("conv1d", "conv2d", "conv3d")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_CONV_ARGUMENTS = ("input", "weight", "bias", "stride", "padding")
_MATRIX = {"matmul": "other", "__matmul__": "other", "mm": "mat2", "bmm": "mat2", "mv": "vec"}
_PLUS_MATRIX = {"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2")}
#: The names of the operations that multiply.
PRODUCTS = {"linear", *_CONVS, *_TRANSPOSED, *_MATRIX, *_PLUS_MATRIX, "einsum", "multi_head_attention_forward"}


def _bound(args: tuple[Any, ...], kwargs: Mapping[str, Any], *names: str) -> list[Any]:
    return [args[i] if i < len(args) else kwargs.get(name) for i, name in enumerate(names)]


def _matrices(first: Tensor, second: Tensor, bias: Tensor | None, output: Tensor) -> list[Product]:
    multiplied = output.numel() * first.shape[-1]
    kind: Kind = "matrix" if second.dim() == 2 else "other"
    return [
        Product(second, kind, first, multiplied // second.numel(), bias),
        Product(first, "other", second, multiplied // first.numel(), bias),
    ]


def _einsum(output: Tensor, equation: str, *operands: Any) -> Iterator[Product]:
    parts = operands[0] if len(operands) == 1 and isinstance(operands[0], tuple | list) else operands
    before, arrow, after = equation.replace(" ", "").partition("->")
    if len(parts) == 2 and arrow:
        sizes = {
            letter: size
            for letters, part in zip(before.split(","), parts, strict=True)
            for letter, size in zip(reversed(letters), reversed(part.shape), strict=False)  # from the end: "...ij"
        }
        multiplied = output.numel() * prod(size for letter, size in sizes.items() if letter not in after + ".")
        for part, other in ((parts[0], parts[1]), (parts[1], parts[0])):
            yield Product(part, "other", other, multiplied // part.numel())


def _multi_head(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Product]:
    """The projections of `nn.MultiheadAttention`: of queries, keys and values, and of what comes out of the heads."""
    if kwargs.get("use_separate_proj_weight"):
        weights = [kwargs[f"{part}_proj_weight"] for part in "qkv"]
    else:
        weights = args[5].chunk(3)
    for x, weight in zip(args[:3], weights, strict=True):
        yield Product(weight, "other", x, x.numel() // x.shape[-1])
    yield Product(args[11], "other", args[0], args[0].numel() // args[0].shape[-1])


def tensors_among(value: Any) -> Iterator[Tensor]:
    """The tensors of arguments, also within tuples and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_among(part)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _starts_within(tensor: Tensor, whole: Tensor) -> bool:
    return 0 <= tensor.storage_offset() - whole.storage_offset() < whole.numel()
