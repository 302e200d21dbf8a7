"""Layer collapse: parameters without a weight left, and whether the network still has a path.

The words are those of Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic
flow", 2020, NeurIPS: a layer collapses when none of its weights is left while other layers have some, and the maximal
compression ratio is that at which each layer has one weight.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.analysis.boolean import by_first_name, reach
from prunus.analysis.effective import checked_masks
from prunus.analysis.inputs import example_of
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.core.probing import Batch


@dataclass(frozen=True)
class Collapse:
    """What masks have left of a network's layers and paths. `print` says it in words.

    Attributes:
        cut: parameters without a weight left that all paths went through: each of them cuts the network by itself.
        bypassed: parameters without a weight left that paths lead around, such as the convolution of a shortcut.
        stranded: parameters that have weights left, none of them on a path from an input to an output.
        outputs: how many outputs one input has.
        reached: how many of them a path from the inputs arrives at.
        layers: how many parameters were looked at.
    """

    cut: tuple[str, ...]
    bypassed: tuple[str, ...]
    stranded: tuple[str, ...]
    outputs: int
    reached: int
    layers: int

    @property
    def empty(self) -> tuple[str, ...]:
        """The parameters without a weight left: `cut` and `bypassed`."""
        return self.cut + self.bypassed

    @property
    def unreached(self) -> int:
        """How many outputs no path arrives at."""
        return self.outputs - self.reached

    @property
    def connected(self) -> bool:
        """Whether there is a path from an input to an output."""
        return self.reached > 0

    def __bool__(self) -> bool:
        """Whether a parameter has no weight left."""
        return bool(self.empty)

    def __str__(self) -> str:
        empty = f"{len(self.empty)} of {self.layers} parameters have no weight left"
        lines = [empty + ":" if self.empty else f"no layer collapse: all {self.layers} parameters have weights left"]
        if self.cut:
            lines.append(f"  on every path, so each of them cuts the network: {', '.join(self.cut)}")
        if self.bypassed:
            lines.append(f"  bypassed, other paths lead around each of them: {', '.join(self.bypassed)}")
        if self.stranded:
            lines.append(f"weights left, but none on a path: {', '.join(self.stranded)}")
        lines.append(self._paths())
        return "\n".join(lines)

    def _paths(self) -> str:
        if not self.connected:
            return "disconnected: no path leads from an input to an output"
        if self.unreached:
            return f"connected, but no path arrives at {self.unreached:,} of {self.outputs:,} outputs"
        return "connected: a path arrives at each output"


def collapse(model: nn.Module, masks: Masks | Mapping[str, Tensor], inputs: Any = None) -> Collapse:
    """Which parameters keep no weight, what that does to the network, and which outputs are still reached.

    Whether an empty parameter cuts the network is asked of the network in which all others are dense. Several that are
    each bypassed may cut it together: then it is not connected. What a path is, `effective` says.

    Args:
        model: any `nn.Module`; it is only read.
        masks: what is kept. Prunable weights without a mask are all kept.
        inputs: as for `effective`.

    Raises:
        Invalid: as for `effective`.
    """
    masks = checked_masks(model, masks)
    example = example_of(model, inputs)
    reached = reach(model, masks, example)
    kept = {layer.name: layer.kept for layer in masks.layers if layer.total}
    empty = [name for name, count in kept.items() if not count]
    cut = tuple(cuts(model, empty, example))
    return Collapse(
        cut=cut,
        bypassed=tuple(name for name in empty if name not in cut),
        stranded=tuple(name for name, count in kept.items() if count and not reached.found[name].any()),
        outputs=reached.outputs,
        reached=reached.reached,
        layers=len(kept),
    )


def cuts(model: nn.Module, names: Iterable[str], example: Batch) -> list[str]:
    """Those of the named parameters that all paths go through: without them, and all else dense, there is none."""
    every = dict(model.named_parameters(remove_duplicate=False))
    full = {n: torch.ones(w.shape, dtype=torch.bool) for n, w in prunable(model).items()}
    found = []
    for name in names:
        without = {name: torch.zeros(every[name].shape, dtype=torch.bool)}
        if not reach(model, {**full, **by_first_name(model, without)}, example, back=False).reached:
            found.append(name)
    return found


def max_compression(weights: nn.Module | Mapping[str, Any]) -> float:
    """The compression ratio at which each layer has one weight: N / L, weights over layers.

    No masks can go beyond it without layer collapse.

    Args:
        weights: a model, of which all prunable weights count; or masks, scores or weights, or how many weights there
            are, by parameter name. Parameters without weights do not count.

    Raises:
        Invalid: if there is no weight.
    """
    sizes = sizes_of(weights)
    return sum(sizes.values()) / len(sizes)


def sizes_of(weights: nn.Module | Mapping[str, Any]) -> dict[str, int]:
    """How many weights each parameter has; those without are left out.

    Raises:
        Invalid: if there is none.
    """
    given = prunable(weights) if isinstance(weights, nn.Module) else weights
    if not isinstance(given, Mapping):
        raise Invalid(
            f"weights is of type {type(weights).__name__}; allowed: a model, or a mapping of tensors or sizes"
        )
    sizes = {name: part.numel() if isinstance(part, Tensor) else int(part) for name, part in given.items()}
    sizes = {name: size for name, size in sizes.items() if size > 0}
    if not sizes:
        raise Invalid("there is no weight; allowed: at least one parameter with weights")
    return sizes
