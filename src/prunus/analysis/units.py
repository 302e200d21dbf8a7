"""Which hidden units feed which weights, found out by sending labels through the network.

In one forward pass of any model each layer gives, in place of its outputs, the numbers of its units. What comes between
layers (activations, normalisation, pooling, dropout, flatten and every other reshaping) passes labels on, so each input
of a later layer says which unit it comes from. Where labels meet in a sum or a product, or go into an operation that is
not known, the layers they come from are left out, and said to be.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from prunus.analysis.products import Product, Watch, tensors_among
from prunus.core.probing import Batch, Probe, tensors_in, untouched


@dataclass(frozen=True)
class Side:
    """A layer and the labels at one of its sides.

    Attributes:
        name: of the parameter.
        labels: for each input or output feature, the unit that it is, from 1; 0 where it is none.
        view: a function from a tensor of the parameter's shape to sums over all weights of each feature.
        bias: the name of the layer's bias (outputs), if it has one.
    """

    name: str
    labels: Tensor
    view: Callable[[Tensor], Tensor]
    bias: str | None = None


@dataclass
class Units:
    """The hidden units of a network.

    Attributes:
        count: how many units there are, in all layers that were seen.
        makers: the outputs of each layer.
        takers: the inputs of each layer.
        shifts: names of parameters that are added to units on their way (BatchNorm's), with the labels of these.
        uses: how often each parameter is multiplied.
        left_out: layers whose units are not followed to the layers they feed, and why.
    """

    count: int = 0
    makers: list[Side] = field(default_factory=list)
    takers: list[Side] = field(default_factory=list)
    shifts: list[tuple[str, Tensor]] = field(default_factory=list)
    uses: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def units_of(model: nn.Module, names: list[str], example: Batch) -> Units:
    """The units of the layers whose weights are named, and what they feed.

    Args:
        model: any `nn.Module`; it is only read.
        names: of its prunable parameters.
        example: what it takes; the first row.

    Raises:
        Invalid: if the model does not take the example.
    """
    values = {n: p.detach().float() for n, p in model.named_parameters() if p.is_floating_point()}
    labels = _Labels({name: values[name] for name in names}, values)
    with untouched(model), torch.inference_mode(False):
        with labels:
            outputs = Probe(model, values, torch.float32)(example.mapped(lambda t: t[:1]))
        for output in tensors_in(outputs):
            if output.requires_grad:
                labels.leave_out(output, "feeds the outputs")
    return labels.units


class _Labels(Watch):
    """Tensors that require a gradient hold labels; NaN where it is not known which, 0 where there is nothing."""

    def __init__(self, weights: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self._parameters = {tensor.data_ptr(): name for name, tensor in parameters.items()}
        self._layer_of = [""]  # by label
        self._passed_by = 0  # how many modules deep in one whose operations do not count
        self.units = Units(uses=dict.fromkeys(weights, 0))

    def __enter__(self) -> Self:
        self._hooks = [register_module_forward_pre_hook(self._before), register_module_forward_hook(self._after)]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*error)

    def _before(self, module: nn.Module, _args: Any) -> None:
        self._passed_by += _is_activation(module)

    def _after(self, module: nn.Module, args: Any, _output: Any) -> Any:
        self._passed_by -= _is_activation(module)
        return args[0] if _is_activation(module) and len(args) == 1 else None

    def multiplied(self, products: list[tuple[str, Product]], output: Any) -> Any:
        for name, product in products:
            self.units.uses[name] += 1
            if product.input.requires_grad:
                self._take(name, product)
        name, product = products[0]
        if len(products) > 1 or product.kind == "other":
            for name, _ in products:
                self.units.left_out.setdefault(name, "its outputs are not told apart")
            return _unknown(output)
        dim = _side(product, output)
        labels = torch.arange(output.shape[dim], dtype=output.dtype, device=output.device) + len(self._layer_of)
        self._layer_of += [name] * len(labels)
        bias = None if product.bias is None else self._parameters.get(product.bias.data_ptr())
        view = partial(_by_output, product, self.part(name, product.weight))
        self.units.makers.append(Side(name, labels.long(), view, bias))
        self.units.count += len(labels)
        return _followed(labels.expand(output.movedim(dim, -1).shape).movedim(-1, dim))

    def _take(self, name: str, product: Product) -> None:
        if product.kind == "other":
            self.leave_out(product.input, f"feeds {name}, whose inputs are not told apart")
            return
        view = partial(_by_input, product, self.part(name, product.weight))
        self.units.takers.append(Side(name, self._by_feature(product.input, _side(product, product.input)), view))

    def other(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        labelled = [t for t in tensors_among((args, tuple(kwargs.values()))) if t.requires_grad]
        if not labelled or name in _MOVING or self._passed_by:
            return func(*args, **kwargs)
        if name in _KEEPING:
            if name == "batch_norm":
                self._shift(args[0], args[4] if len(args) > 4 else kwargs.get("bias"))
            return args[0]
        if name in _JOINING:
            # what comes from no unit is not the 0 of padding
            parts = [t if t.requires_grad else torch.where(t == 0, 0.0, torch.nan) for t in args[0]]
            return func(parts, *args[1:], **kwargs)
        if name in _SCALING and len(labelled) == 1 and ("div" not in name or labelled[0] is args[0]):
            factor = args[1] if labelled[0] is args[0] else args[0]
            return labelled[0] * (factor != 0) if isinstance(factor, Tensor) else labelled[0]
        if name in _POOLING:
            return self._single(args[0], _POOLING[name](*args[1:], **kwargs))
        return self._stopped(func, name, labelled, args, kwargs)

    def _stopped(self, func: Any, name: str, labelled: list[Tensor], args: Any, kwargs: Any) -> Any:
        output = func(*args, **kwargs)
        floats = [t for t in tensors_among(output) if t.is_floating_point()]
        if floats:
            plain = name.strip("_")
            for tensor in labelled:
                self.leave_out(tensor, "joins a sum" if plain in _SUMS else f"goes into {plain}")
        if name.endswith("_") and not name.endswith("__"):
            with torch.no_grad():
                return output.fill_(torch.nan)
        return _unknown(output) if floats else output

    def _shift(self, labels: Tensor, bias: Any) -> None:
        if isinstance(bias, Tensor) and (name := self._parameters.get(bias.data_ptr())):
            self.units.shifts.append((name, self._by_feature(labels, 1)))

    def _by_feature(self, labels: Tensor, dim: int) -> Tensor:
        rows = labels.detach().movedim(dim, 0).reshape(labels.shape[dim], -1)
        return self._single(rows, lambda x: x.amax(1)).detach().nan_to_num(0).long()

    def _single(self, labels: Tensor, largest: Callable[[Tensor], Tensor]) -> Tensor:
        """The label of each window; NaN, and left out, where one meets others, or something that is not known."""
        known = labels.nan_to_num(0)
        high = largest(known)
        low = -largest(-known.masked_fill(known == 0, torch.inf))
        strange = largest(labels.isnan().to(labels.dtype)) > 0
        mixed = (high > 0) & ((high != low) | strange)
        if mixed.any():
            self.leave_out(labels, "joins a sum")
        return high.masked_fill(mixed | strange, torch.nan)

    def leave_out(self, tensor: Tensor, why: str) -> None:
        """The layers whose labels are in the tensor."""
        for label in tensor.detach().nan_to_num(0).unique().long().tolist():
            if label:
                self.units.left_out.setdefault(self._layer_of[label], why)


def _is_activation(module: nn.Module) -> bool:
    """Transformers' activations are written out in many operations, so they are known by their class."""
    return type(module).__module__ == "transformers.activations"


def _side(product: Product, tensor: Tensor) -> int:
    """The dimension of inputs or outputs that goes over features."""
    if product.kind in ("linear", "matrix"):
        return tensor.dim() - 1
    return tensor.dim() - product.weight.dim() + 1


def _by_output(product: Product, part: Callable[[Tensor], Tensor], whole: Tensor) -> Tensor:
    scores, groups = part(whole), product.groups
    if product.kind == "matrix":
        return scores.sum(0)
    if product.kind == "transposed":
        return scores.unflatten(0, (groups, -1)).flatten(3).sum((1, 3)).flatten()
    return scores.flatten(1).sum(1)


def _by_input(product: Product, part: Callable[[Tensor], Tensor], whole: Tensor) -> Tensor:
    scores, groups = part(whole), product.groups
    if product.kind == "linear":
        return scores.sum(0)
    if product.kind == "conv":
        return scores.unflatten(0, (groups, -1)).flatten(3).sum((1, 3)).flatten()
    return scores.flatten(1).sum(1)


def _followed(labels: Tensor) -> Tensor:
    """Not a leaf, which may not be written to."""
    return labels.clone().requires_grad_().clone()


def _unknown(output: Any) -> Any:
    if isinstance(output, Tensor):
        return _followed(torch.full_like(output, torch.nan)) if output.is_floating_point() else output
    return type(output)(_unknown(part) for part in output) if type(output) in (tuple, list) else output


def _max_pooling(pool: Any) -> Any:
    def largest(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop("return_indices", None)
        return lambda x: pool(x, *args, **kwargs)

    return largest


def _average_pooling(pool: Any) -> Any:
    def largest(kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, *_: Any) -> Any:
        return lambda x: pool(x, kernel_size, stride or None, padding, 1, ceil_mode)

    return largest


def _reduction(dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    return lambda x: x.amax() if dim is None else x.amax(dim, keepdim=keepdim)


def _called(*names: str) -> frozenset[str]:
    return frozenset(name for line in names for name in line.split())


#: Operations by name: those that leave each unit in its place, and what they do to it does not mix units;
_KEEPING = _called(
    "relu relu_ leaky_relu leaky_relu_ prelu rrelu elu selu celu gelu silu mish softplus softsign hardtanh relu6 tanh",
    "tanh_ sigmoid hardsigmoid hardswish log_sigmoid logsigmoid tanhshrink threshold _threshold neg abs clamp clamp_",
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout",
    "batch_norm layer_norm group_norm instance_norm rms_norm local_response_norm",
)
#: that move units about, or repeat them;
_MOVING = _called(
    "view reshape view_as reshape_as flatten unflatten squeeze unsqueeze transpose permute movedim swapaxes t __get__",
    "contiguous clone to float double type_as chunk split unbind narrow select index_select __getitem__ __setitem__",
    "expand expand_as repeat repeat_interleave roll flip pad pixel_shuffle pixel_unshuffle channel_shuffle",
)
#: that put several tensors side by side; that multiply by a constant; that add up.
_JOINING = _called("cat concat concatenate stack")
_SCALING = _called("mul mul_ multiply div div_ true_divide divide")
_SUMS = _called("add sub rsub radd")
#: Operations that make one of many, by name: a function of their arguments that gives the largest instead.
_POOLING: dict[str, Any] = dict.fromkeys(("mean", "sum", "amax"), _reduction)
for _d, _pool in enumerate((F.max_pool1d, F.max_pool2d, F.max_pool3d), 1):
    _POOLING[f"max_pool{_d}d"] = _max_pooling(_pool)
    _POOLING[f"avg_pool{_d}d"] = _average_pooling(_pool)
for _d, _pool in enumerate((F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d), 1):
    for _kind in ("avg", "max"):
        _POOLING[f"adaptive_{_kind}_pool{_d}d"] = _max_pooling(_pool)
