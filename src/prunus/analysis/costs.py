"""Parameters and multiply-accumulates of a network: dense, under masks, and of what lies on a path."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from prunus.analysis.boolean import by_first_name, reach
from prunus.analysis.effective import checked_masks
from prunus.analysis.inputs import example_of
from prunus.analysis.products import Product, Watch
from prunus.core.masks import Masks
from prunus.core.params import device_of
from prunus.core.probing import Probe, untouched


@dataclass(frozen=True)
class Cost:
    """What one layer, or all of them, takes.

    Attributes:
        name: of the parameter; "all" for the sum.
        uses: how often the layer is used in one pass (attention's input projection three times); 0 for one that is not
            used, or only by an operation whose products are not known.
        parameters: how many weights there are.
        kept: how many the masks keep.
        effective: how many of those lie on a path from an input to an output.
        macs: multiply-accumulates of the dense layer for one input.
        kept_macs: those of the weights that the masks keep.
        effective_macs: those of the weights that lie on a path.
    """

    name: str
    uses: int
    parameters: int
    kept: int
    effective: int
    macs: int
    kept_macs: int
    effective_macs: int

    @property
    def flops(self) -> int:
        """Floating-point operations of the dense layer: 2 × `macs`."""
        return 2 * self.macs

    @property
    def speedup(self) -> float:
        """Dense over kept multiply-accumulates: the speed-up that masks could give at best (infinite for none kept)."""
        return _ratio(self.macs, self.kept_macs)

    @property
    def effective_speedup(self) -> float:
        """The same with effective multiply-accumulates."""
        return _ratio(self.macs, self.effective_macs)


@dataclass(frozen=True)
class Costs:
    """Parameters and multiply-accumulates (MACs; FLOPs = 2 × MACs) for one input. `print` shows a table.

    Attributes:
        layers: one row for each prunable parameter, in the model's order.
        all_parameters: how many parameters the model has in all, with biases, norms and embeddings.
        inputs: the shapes of the inputs that were counted for, by the names that the model takes them by, or by number.
    """

    layers: tuple[Cost, ...]
    all_parameters: int
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def total(self) -> Cost:
        """The sum over all layers."""
        names = ("uses", "parameters", "kept", "effective", "macs", "kept_macs", "effective_macs")
        return Cost("all", *(sum(getattr(layer, name) for layer in self.layers) for name in names))

    def summary(self) -> Table:
        """A rich table with one row for each layer and one for all."""
        table = Table(show_footer=True, caption=self._caption(), caption_justify="left")
        numbers = ("parameters", "kept", "effective", "macs", "kept_macs", "effective_macs")
        table.add_column("parameter", "all", overflow="fold")
        for name in ("uses", *numbers):
            below = f"{getattr(self.total, name):,}" if name in numbers else ""
            table.add_column(_HEADINGS.get(name, name), below, justify="right", no_wrap=True)
        for layer in self.layers:
            table.add_row(layer.name, str(layer.uses), *(f"{getattr(layer, name):,}" for name in numbers))
        return table

    def __str__(self) -> str:
        console = Console(file=StringIO(), width=130, color_system=None)
        console.print(self.summary())
        assert isinstance(console.file, StringIO)
        return console.file.getvalue().rstrip()

    def _caption(self) -> str:
        total = self.total
        lines = [
            f"MACs are multiply-accumulates of one input; 1 MAC is 2 FLOPs. {self.all_parameters:,} parameters in all.",
            "for inputs of " + ", ".join(" × ".join(map(str, shape)) for shape in self.inputs.values()),
            f"fewer MACs: kept {total.speedup:.4g}×, effective {total.effective_speedup:.4g}×",
        ]
        unused = [layer.name for layer in self.layers if not layer.uses]
        return "\n".join([*lines, *([f"no products seen of {', '.join(unused)}"] if unused else [])])


_HEADINGS = {"macs": "MACs", "kept_macs": "kept MACs", "effective_macs": "effective MACs"}


def costs(model: nn.Module, masks: Masks | Mapping[str, Tensor] | None = None, inputs: Any = None) -> Costs:
    """Parameters and multiply-accumulates of the dense network, under masks, and of what lies on a path.

    One forward pass of one input tells the true sizes of all outputs. A weight of a convolution is multiplied once
    for each position of the output (of the input, for a transposed one), also where it meets padding; one of a linear
    layer once for each position of a sequence. Layers that are used more than once count each time. Under masks each
    weight kept counts as often as before.

    Counted are products with prunable weights: linear layers, convolutions, matrix products, attention's projections.
    Not counted are biases, norms, activations, pooling, and products of activations with each other (the scores of
    attention).

    Args:
        model: any `nn.Module`; it is only read.
        masks: what is kept. Default: everything. Prunable weights without a mask count as kept.
        inputs: as for `effective`; the size of images or sequences is that of the counts.

    Raises:
        Invalid: if a mask is not that of a parameter, the model has no prunable weights, or no example is found or the
            model does not take it. Under masks, also if the model is recurrent.
    """
    full = checked_masks(model, None)
    given = full if masks is None else Masks({**full, **by_first_name(model, checked_masks(model, masks))})
    example = example_of(model, inputs)
    found = given if masks is None else reach(model, given, example).found
    weights = dict(model.named_parameters())
    counter = _Counter({name: weights[name] for name in given})
    with untouched(model), torch.no_grad(), counter:
        Probe(model, {})(example.mapped(lambda t: t[:1]).to(device_of(model), _dtype(model)))
    rows = tuple(_row(name, weights[name], counter.seen[name], mask, found[name]) for name, mask in given.items())
    given_by = {**dict(enumerate(example.args)), **example.kwargs}
    shapes = {str(n): tuple(t.shape[1:]) for n, t in given_by.items() if isinstance(t, Tensor)}
    return Costs(rows, sum(parameter.numel() for parameter in model.parameters()), shapes)


def _dtype(model: nn.Module) -> torch.dtype | None:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


class _Counter(Watch):
    """Notes for each use of a parameter which part of it is used, how large that is, and how often it is multiplied."""

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        super().__init__(weights)
        self.seen: dict[str, list[tuple[Callable[[Tensor], Tensor], int, int]]] = {name: [] for name in weights}

    def multiplied(self, products: list[tuple[str, Product]], output: Any) -> Any:
        for name, product in products:
            self.seen[name].append((self.part(name, product.weight), product.weight.numel(), product.uses))
        return output


def _row(name: str, weight: nn.Parameter, seen: list[Any], mask: Tensor, found: Tensor) -> Cost:
    dense = torch.ones((), dtype=torch.bool).expand(weight.shape)
    counts = [int(each.count_nonzero()) for each in (dense, mask, found)]
    return Cost(name, len(seen), *counts, *(_multiplied(seen, each) for each in (dense, mask, found)))


def _multiplied(seen: list[Any], mask: Tensor) -> int:
    parts = [(part(mask), size, uses) for part, size, uses in seen]
    return sum(int(part.count_nonzero()) * size * uses // part.numel() for part, size, uses in parts)


def _ratio(dense: int, left: int) -> float:
    return dense / left if left else float("inf")
