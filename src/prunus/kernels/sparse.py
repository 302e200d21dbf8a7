"""`sparse_linear`: the products of a linear layer of which only some weights are there, as an operator with gradients.

The weights are a vector: one number for each weight that is there, row by row. In float32 on a CPU the C++ kernels
compute the product, its gradient in the inputs, and the gradient in the weights that are there; elsewhere, and where
the kernels were not built, PyTorch's CSR products do.
"""

import warnings
from functools import cached_property
from itertools import count
from types import ModuleType
from typing import Any, Self
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from prunus.kernels import native


class Pattern:
    """Which weights of a layer [outputs, inputs] are there. It never changes, and its copies are itself.

    Args:
        mask: bool [outputs, inputs], on any device.

    Raises:
        ValueError: if the mask is not bool, or not of two dimensions.
    """

    def __init__(self, mask: Tensor) -> None:
        if mask.dtype != torch.bool or mask.dim() != 2 or not mask.numel():
            raise ValueError(
                f"a pattern is made of a mask that is {mask.dtype} {list(mask.shape)}; allowed: bool [outputs, inputs]"
            )
        self.mask = mask.detach().cpu().clone(memory_format=torch.contiguous_format)
        self.places = self.mask.view(-1).nonzero().squeeze(1)  # int64 [kept], ascending
        self.handle = next(_HANDLES)
        _PATTERNS[self.handle] = self

    @classmethod
    def of(cls, mask: Tensor) -> Self:
        """The pattern of a mask."""
        return cls(mask)

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        outputs, inputs = self.mask.shape
        return outputs, inputs

    @property
    def kept(self) -> int:
        """How many weights are there."""
        return len(self.places)

    def values(self, dense: Tensor) -> Tensor:
        """The weights [outputs, inputs] that are there, as a new vector [kept]."""
        return dense.reshape(-1)[self.places.to(dense.device)]

    def dense(self, values: Tensor) -> Tensor:
        """The inverse: a new tensor [outputs, inputs], zero where no weight is."""
        dense = values.new_zeros(self.mask.numel())
        dense[self.places.to(values.device)] = values.detach()
        return dense.view(self.shape)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[Tensor]]:
        return type(self), (self.mask,)

    @cached_property
    def compiled(self) -> Any:
        """The same as the kernels have it."""
        module = native()
        assert module is not None
        return module.Pattern(self.mask.view(torch.uint8))

    @cached_property
    def by_output(self) -> tuple[Tensor, Tensor]:
        """CSR: where each row begins, int64 [outputs + 1], and the columns, int64 [kept]."""
        return _rows(self.mask)

    @cached_property
    def by_input(self) -> tuple[Tensor, Tensor, Tensor]:
        """CSR of the transposed weights, and which value each of its entries is."""
        outputs, inputs = self.shape
        order = (self.places % inputs * outputs + self.places // inputs).argsort()
        return *_rows(self.mask.t()), order


def sparse_linear(inputs: Tensor, values: Tensor, pattern: Pattern, bias: Tensor | None = None) -> Tensor:
    """`inputs · weightᵀ + bias`, where `weight` is `pattern.dense(values)`.

    Differentiable once in inputs, values and bias; works under `torch.compile`. In float32 on a CPU the sums run in a
    fixed order: the result depends neither on the number of threads nor on the instruction set.

    Args:
        inputs: […, inputs], real numbers of 32 or 64 bits.
        values: [kept], of the same type and on the same device.
        pattern: which weights are there.
        bias: [outputs], or None.

    Returns:
        […, outputs].

    Raises:
        ValueError: if shapes, types or devices do not fit each other.
    """
    outputs, within = pattern.shape
    if inputs.shape[-1:] != (within,) or values.shape != (pattern.kept,):
        raise ValueError(
            f"inputs are {list(inputs.shape)} and values {list(values.shape)}; "
            f"allowed for this pattern: […, {within}] and [{pattern.kept}]"
        )
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"bias is {list(bias.shape)}; allowed for this pattern: [{outputs}]")
    for tensor in (inputs, values) if bias is None else (inputs, values, bias):
        if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != inputs.dtype:
            raise ValueError(f"{tensor.dtype} beside {inputs.dtype}; allowed: all float32, or all float64")
        if tensor.device != inputs.device:
            raise ValueError(f"a tensor on {tensor.device} beside one on {inputs.device}; allowed: one device")
    rows = inputs.reshape(-1, within).contiguous()
    return _linear(rows, values.contiguous(), bias, pattern.handle).view(*inputs.shape[:-1], outputs)


_HANDLES = count()
_PATTERNS: WeakValueDictionary[int, Pattern] = WeakValueDictionary()


@torch.library.custom_op("prunus::sparse_linear", mutates_args=())
def _linear(x: Tensor, values: Tensor, bias: Tensor | None, handle: int) -> Tensor:
    pattern = _PATTERNS[handle]
    y = x.new_empty(len(x), pattern.shape[0])
    if module := _kernels(x):
        arguments = values.detach(), None if bias is None else bias.detach().contiguous(), x.detach(), y
        module.sparse_forward(pattern.compiled, *arguments, torch.get_num_threads())
        return y
    y = _product(*pattern.by_output, values, pattern.shape, x)
    return y if bias is None else y.add_(bias)


@torch.library.custom_op("prunus::sparse_input_gradient", mutates_args=())
def _input_gradient(dy: Tensor, values: Tensor, handle: int) -> Tensor:
    pattern = _PATTERNS[handle]
    outputs, inputs = pattern.shape
    if module := _kernels(dy):
        dx = dy.new_empty(len(dy), inputs)
        module.sparse_input_gradient(pattern.compiled, values.detach(), dy, dx, torch.get_num_threads())
        return dx
    begins, columns, order = pattern.by_input
    return _product(begins, columns, values[order.to(values.device)], (inputs, outputs), dy)


@torch.library.custom_op("prunus::sparse_weight_gradient", mutates_args=())
def _weight_gradient(x: Tensor, dy: Tensor, handle: int) -> Tensor:
    pattern = _PATTERNS[handle]
    found = x.new_zeros(pattern.kept)
    if module := _kernels(x):
        module.sparse_weight_gradient(pattern.compiled, x.detach(), dy, found, torch.get_num_threads())
        return found
    if not pattern.kept or not len(x):
        return found
    begins, columns = (t.to(x.device) for t in pattern.by_output)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "beta state"
        zeros = torch.sparse_csr_tensor(begins, columns, found, pattern.shape)
        return torch.sparse.sampled_addmm(zeros, dy.t().contiguous(), x, beta=0.0).values()


@_linear.register_fake
def _(x: Tensor, values: Tensor, bias: Tensor | None, handle: int) -> Tensor:  # noqa: ARG001
    return x.new_empty(len(x), _PATTERNS[handle].shape[0])


@_input_gradient.register_fake
def _(dy: Tensor, values: Tensor, handle: int) -> Tensor:  # noqa: ARG001
    return dy.new_empty(len(dy), _PATTERNS[handle].shape[1])


@_weight_gradient.register_fake
def _(x: Tensor, dy: Tensor, handle: int) -> Tensor:  # noqa: ARG001
    return x.new_empty(_PATTERNS[handle].kept)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, int], output: Tensor) -> None:  # noqa: ARG001
    x, values, bias, handle = inputs
    ctx.save_for_backward(x, values)
    ctx.handle, ctx.biased = handle, bias is not None
    ctx.pattern = _PATTERNS[handle]  # as long as the graph is there


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
    x, values = ctx.saved_tensors
    wants_x, wants_values, wants_bias, _ = ctx.needs_input_grad
    dy = dy.contiguous()
    return (
        _input_gradient(dy, values, ctx.handle) if wants_x else None,
        _weight_gradient(x, dy, ctx.handle) if wants_values else None,
        dy.sum(0) if wants_bias else None,
        None,
    )


_linear.register_autograd(_gradients, setup_context=_remember)


def _kernels(x: Tensor) -> ModuleType | None:
    """The compiled module, where it can do this work."""
    return native() if x.dtype == torch.float32 and x.device.type == "cpu" else None


def _rows(mask: Tensor) -> tuple[Tensor, Tensor]:
    begins = torch.zeros(len(mask) + 1, dtype=torch.int64)
    begins[1:] = mask.sum(1).cumsum(0)
    return begins, mask.contiguous().nonzero()[:, 1].contiguous()


def _product(begins: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int], x: Tensor) -> Tensor:
    """X [rows, shape[1]] times the transposed CSR matrix: [rows, shape[0]]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "beta state"
        matrix = torch.sparse_csr_tensor(begins.to(x.device), columns.to(x.device), values.detach(), shape)
        return (matrix @ x.detach().t()).t().contiguous()
