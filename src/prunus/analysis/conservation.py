"""The conservation laws of synaptic saliency, as numbers with their error.

A synaptic saliency is a score (∂R/∂θ) ⊙ θ, where R is a function of a network's outputs. In a network of layers,
activations with φ(x) = φ'(x)·x, pooling and sums it is conserved (Tanaka et al., "Pruning neural networks without any
data by iteratively conserving synaptic flow", 2020, NeurIPS):

- layer by layer: the scores of all weights that cut inputs from outputs add up to ⟨∂R/∂y, y⟩, which for synaptic flow
  is R. Biases are inputs too: those at the cut or after it belong to the sum;
- unit by unit: the scores of what comes into a hidden unit (its bias with it) add up to those of what goes out of it.

So the mean score of a layer is in inverse proportion to its size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from statistics import fmean
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from prunus.analysis.boolean import reach
from prunus.analysis.collapse import cuts
from prunus.analysis.effective import checked_masks
from prunus.analysis.flow import Flow
from prunus.analysis.inputs import example_of
from prunus.analysis.units import Units, units_of
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.core.probing import Batch

#: "cut": all paths go through the layer; "branch": other paths lead around it, and the law says nothing of it alone;
#: "shared": it is used more than once, so that its scores count what flows through it as often; "unseen": no product.
Kind = Literal["cut", "branch", "shared", "unseen"]


@dataclass(frozen=True)
class LayerFlow:
    """The scores of one layer.

    Attributes:
        name: of the parameter.
        kind: whether the law speaks of it ("cut"), or why not.
        size: how many weights are scored: those that are kept.
        sum: the sum of their scores.
        biases: the sum of the scores of all biases at the layer or after it (0 unless it is a cut).
        error: |sum + biases − R| / max(|sum + biases|, |R|); None unless it is a cut.
    """

    name: str
    kind: Kind
    size: int
    sum: float
    biases: float
    error: float | None

    @property
    def mean(self) -> float:
        """The mean score of a weight, sum / size."""
        return self.sum / self.size if self.size else 0.0


@dataclass(frozen=True)
class UnitFlow:
    """The scores around each unit of one layer.

    Attributes:
        name: of the layer's parameter.
        incoming: float64 of shape (units,): the sum of the scores of each unit's weights, its bias with them.
        outgoing: the sum of the scores of the weights that it feeds.
    """

    name: str
    incoming: Tensor
    outgoing: Tensor

    @property
    def errors(self) -> Tensor:
        """|in − out| / max(|in|, |out|), (units,); 0 where both are 0."""
        most = torch.maximum(self.incoming.abs(), self.outgoing.abs())
        return torch.where(most > 0, (self.incoming - self.outgoing).abs() / most, 0.0)


@dataclass(frozen=True)
class Conservation:
    """What is conserved in a network, and how exactly. `print` shows it as a table.

    Attributes:
        flow: R.
        layers: one row for each prunable parameter, in the model's order.
        units: one row for each layer whose units feed only other layers.
        left_out: the other layers by name, and why they are not among `units`.
    """

    flow: float
    layers: tuple[LayerFlow, ...]
    units: tuple[UnitFlow, ...]
    left_out: Mapping[str, str]

    @property
    def layer_errors(self) -> dict[str, float]:
        """The relative error of each layer that is a cut."""
        return {layer.name: layer.error for layer in self.layers if layer.error is not None}

    @property
    def layer_error(self) -> float:
        """The largest of them (NaN if no layer is a cut)."""
        return max(self.layer_errors.values(), default=float("nan"))

    @property
    def mean_layer_error(self) -> float:
        """Their mean (NaN if no layer is a cut)."""
        return fmean(self.layer_errors.values()) if self.layer_errors else float("nan")

    @property
    def unit_errors(self) -> Tensor:
        """The relative errors of all units, float64 of shape (units of all layers,)."""
        return torch.cat([torch.zeros(0, dtype=torch.float64), *(layer.errors for layer in self.units)])

    @property
    def unit_error(self) -> float:
        """The largest of them (NaN if there are no units)."""
        return float(self.unit_errors.amax()) if len(self.unit_errors) else float("nan")

    @property
    def mean_unit_error(self) -> float:
        """Their mean (NaN if there are no units)."""
        return float(self.unit_errors.mean())

    def summary(self) -> Table:
        """A rich table with one row for each layer."""
        table = Table(caption=self._caption(), caption_justify="left")
        for heading in (
            "parameter",
            "kind",
            "weights",
            "sum",
            "mean",
            "biases after",
            "error",
            "units",
            "error of units",
        ):
            text = heading in ("parameter", "kind", "units")
            table.add_column(heading, justify="left" if text else "right", overflow="fold", no_wrap=not text)
        units = {unit.name: unit.errors for unit in self.units}
        for layer in self.layers:
            error = "" if layer.error is None else f"{layer.error:.1e}"
            errors = units.get(layer.name)
            about = self.left_out.get(layer.name, "") if errors is None else f"{len(errors):,}"
            most = "" if errors is None else f"{float(errors.amax()):.1e}"
            numbers = f"{layer.size:,}", f"{layer.sum:.6g}", f"{layer.mean:.4g}", f"{layer.biases:.6g}", error
            table.add_row(layer.name, layer.kind, *numbers, about, most)
        return table

    def __str__(self) -> str:
        console = Console(file=StringIO(), width=140, color_system=None)
        console.print(self.summary())
        assert isinstance(console.file, StringIO)
        return console.file.getvalue().rstrip()

    def _caption(self) -> str:
        rows = (
            ("layers that are cuts", len(self.layer_errors), self.layer_error, self.mean_layer_error),
            ("hidden units", len(self.unit_errors), self.unit_error, self.mean_unit_error),
        )
        lines = [
            f"{count:,} {what}: relative error at most {most:.1e}, on average {mean:.1e}" if count else f"no {what}"
            for what, count, most, mean in rows
        ]
        return "\n".join([f"R = {self.flow:.10g}", *lines])


def conservation(
    model: nn.Module,
    scores: Mapping[str, Tensor] | None = None,
    inputs: Any = None,
    *,
    flow: float | None = None,
    masks: Masks | Mapping[str, Tensor] | None = None,
    biases: bool = True,
) -> Conservation:
    """How exactly synaptic flow, or any synaptic saliency, is conserved in a network.

    Layers that are one branch of a parallel connection, or used more than once, are shown without an error, since the
    law says nothing of them alone. Units are followed through activations, normalisation, pooling, dropout, flatten
    and other reshaping to the layers that they feed; a layer whose outputs join a sum, feed the outputs, or go into
    anything else is left out of the neuron-wise part, and listed.

    Args:
        model: any `nn.Module`; it is only read.
        scores: for each prunable parameter a tensor of its shape, signed; biases may have scores too (by their
            names). Default: synaptic flow in float64, |θ| ⊙ ∂R/∂|θ| with ones as inputs.
        inputs: as for `effective`.
        flow: R of given scores, ⟨∂R/∂y, y⟩. Default: the mean over all layers that are cuts, of the sums of scores.
        masks: which weights are there. Default: all.
        biases: whether biases are sources of the synaptic flow. Default: True.

    Raises:
        Invalid: if the model has no prunable weights, scores lack one or have another shape, no example is found or
            the model does not take it, or the flow is not finite.
    """
    full = checked_masks(model, None)
    kept = full if masks is None else Masks({**full, **checked_masks(model, masks)})
    example = example_of(model, inputs)
    if scores is None:
        scores, flow = _flow(model, kept, example, biases)
    else:
        scores = _checked(model, full, scores)
    units = units_of(model, list(full), example)
    cut = _cuts(model, full, example)
    sums = {name: float(scores[name].sum()) for name in full}
    kinds: dict[str, Kind] = {name: _kind(name, units, cut) for name in full}
    added = _added(scores, units)
    after = {n: _after(model, full, n, added, example) if kinds[n] == "cut" else 0.0 for n in full}
    if flow is None:
        found = [sums[name] + after[name] for name in full if kinds[name] == "cut"]
        flow = fmean(found) if found else float("nan")
    size = {layer.name: layer.kept for layer in kept.layers}
    layers = [
        LayerFlow(n, k, size[n], sums[n], after[n], _error(sums[n] + after[n], flow) if k == "cut" else None)
        for n, k in kinds.items()
    ]
    followed, left_out = _units(units, kinds, scores)
    return Conservation(flow, tuple(layers), followed, left_out)


def _flow(model: nn.Module, kept: Masks, example: Batch, biases: bool) -> tuple[dict[str, Tensor], float]:
    weights = prunable(model)
    added = {n: p for n, p in model.named_parameters() if biases and _is_bias(n)}
    masks = {**kept, **{name: torch.ones(bias.shape, dtype=torch.bool) for name, bias in added.items()}}
    found: dict[str, Tensor] = {name: torch.zeros(mask.shape, dtype=torch.float64) for name, mask in masks.items()}

    def keep(name: str, weight: Tensor, gradient: Tensor) -> None:
        found[name] = (weight * gradient).cpu()

    flow = Flow(model, example, weights={**weights, **added}, masks=Masks(masks), biases=biases).run(keep)
    if not flow < float("inf"):
        raise Invalid(f"the synaptic flow is {flow}, even in 64 bits: look for NaN or very large weights")
    return found, flow


def _checked(model: nn.Module, full: Masks, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    every = dict(model.named_parameters())
    for name in full:
        if name not in scores:
            raise Invalid(f"scores lack {name!r}; allowed: a tensor for each prunable parameter")
    for name, score in scores.items():
        if name not in every or score.shape != every[name].shape:
            raise Invalid(f"the scores of {name!r}, {tuple(score.shape)}, are of no parameter of the model")
    return {name: score.detach().double().cpu() for name, score in scores.items()}


def _cuts(model: nn.Module, full: Masks, example: Batch) -> set[str]:
    """The layers that all flow goes through. What a model adds besides biases (learned tokens) is a source too."""
    found = set(cuts(model, full, example))
    if all(n in full or p.dim() < 2 for n, p in model.named_parameters()):
        return found
    without = {name: Masks({**full, name: torch.zeros_like(full[name])}) for name in found}
    return {n for n, masks in without.items() if not Flow(model, example, masks=masks, biases=False).run(_nothing)}


def _nothing(_name: str, _weight: Tensor, _gradient: Tensor) -> None:
    pass


def _kind(name: str, units: Units, cut: set[str]) -> Kind:
    if not units.uses[name]:
        return "unseen"
    if units.uses[name] > 1:
        return "shared"
    return "cut" if name in cut else "branch"


def _added(scores: Mapping[str, Tensor], units: Units) -> dict[str, Tensor]:
    """The scores, where there are any, of biases: what layers and BatchNorm add, and others by their names."""
    seen = {maker.bias for maker in units.makers} | {name for name, _ in units.shifts}
    return {n: s for n, s in scores.items() if (n in seen or _is_bias(n)) and s.any()}


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[-1].endswith("bias")


def _after(model: nn.Module, full: Masks, name: str, added: Mapping[str, Tensor], example: Batch) -> float:
    """The sum of the scores of all biases that still have a path to the outputs when the layer is empty."""
    if not added:
        return 0.0
    followed = {n: torch.ones(score.shape, dtype=torch.bool) for n, score in added.items()}
    without = {name: torch.zeros(full[name].shape, dtype=torch.bool)}
    found = reach(model, {**full, **without, **followed}, example).found
    return sum(float(score[found[n].cpu()].sum()) for n, score in added.items())


def _error(found: float, expected: float) -> float:
    most = max(abs(found), abs(expected))
    return abs(found - expected) / most if most else 0.0


def _units(units: Units, kinds: Mapping[str, Kind], scores: Mapping[str, Tensor]) -> tuple[Any, dict[str, str]]:
    incoming, outgoing = (torch.zeros(units.count + 1, dtype=torch.float64) for _ in range(2))
    for maker in units.makers:
        labels = maker.labels.cpu()
        incoming.index_add_(0, labels, maker.view(scores[maker.name]))
        if maker.bias is not None and maker.bias in scores:
            incoming.index_add_(0, labels, scores[maker.bias])
    for name, labels in units.shifts:
        if name in scores:
            incoming.index_add_(0, labels.cpu(), scores[name])
    fed: set[str] = set()
    left_out = {name: "used more than once" for name, kind in kinds.items() if kind == "shared"}
    layer_of = {label: m.name for m in units.makers for label in m.labels.tolist()}
    for taker in units.takers:
        outgoing.index_add_(0, taker.labels.cpu(), taker.view(scores[taker.name]))
        sources = {layer_of[label] for label in taker.labels.unique().tolist() if label}
        fed |= sources
        if kinds[taker.name] == "shared":
            why = f"feeds {taker.name}, which is used more than once"
            left_out.update(dict.fromkeys(sources - left_out.keys(), why))
    left_out = {**left_out, **{n: why for n, why in units.left_out.items() if n not in left_out}}
    left_out.update({n: "feeds nothing that was seen" for n in kinds if n not in fed and n not in left_out})
    rows = [UnitFlow(m.name, incoming[m.labels], outgoing[m.labels]) for m in units.makers if m.name not in left_out]
    return tuple(rows), {name: left_out[name] for name in kinds if name in left_out}
