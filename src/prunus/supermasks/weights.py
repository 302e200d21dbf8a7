"""Frozen weights as a function of a seed, the same bits everywhere: what a supermask's file has in their place."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunus.core.counter import FROZEN_WEIGHTS, normals, signs, uniforms
from prunus.core.errors import Invalid, nearest
from prunus.core.params import owners, prunable
from prunus.core.registry import Table
from prunus.models.initial import fans

#: From (seed, purpose, layer, count) to so many numbers of a stream, each within ±7.
Draw = Callable[[int, int, int, int], NDArray]


@dataclass(frozen=True)
class Scheme:
    """How the weights of a layer are drawn.

    Attributes:
        note: what `prunus list` says about it.
        variance: of a weight, from the number of inputs and of outputs of one unit.
        draw: gives numbers around 0.
        factor: what makes their variance 1.
    """

    note: str
    variance: Callable[[int, int], float]
    draw: Draw
    factor: float = 1.0


def _balanced(seed: int, purpose: int, layer: int, count: int) -> NDArray:
    return 2.0 * uniforms(seed, purpose, layer, count) - 1.0  # in (−1, 1), exact


_VARIANCES: dict[str, Callable[[int, int], float]] = {
    "kaiming": lambda inputs, _: 2 / inputs,
    "glorot": lambda inputs, outputs: 2 / (inputs + outputs),
}
_SHAPES: dict[str, tuple[str, Draw, float]] = {
    "normal": ("normal", normals, 1.0),
    "uniform": ("uniform", _balanced, sqrt(3.0)),
    "constant": ("of one size with random signs", signs, 1.0),
}
_SAID = {"kaiming": "2 / inputs", "glorot": "2 / (inputs + outputs)"}

#: The schemes by name: kaiming and glorot, each normal, uniform and constant.
WEIGHTS: Table[Scheme] = Table(
    "weights",
    {
        f"{rule}-{shape}": Scheme(f"Weights {words}, of variance {_SAID[rule]}.", variance, draw, factor)
        for rule, variance in _VARIANCES.items()
        for shape, (words, draw, factor) in _SHAPES.items()
    },
    group="prunus.weights",
)


@dataclass(frozen=True)
class Origin:
    """What frozen weights are drawn from.

    Attributes:
        scheme: a name in `WEIGHTS`.
        seed: from 0 to 2⁶⁴ − 1.
        gain: factor on all weights. 1 / √density is the "scaled" of What's hidden in a randomly weighted neural
            network?, 2020, CVPR: it keeps the variance of the activations where only so many weights are left. Its
            code divides the inputs by 1 − rate for that, with `rate` the fraction it keeps; that is a mistake, which
            shows at all densities but ½, and which others have copied. Default: 1.
    """

    scheme: str
    seed: int
    gain: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what nothing can be drawn from."""
        WEIGHTS.look_up(self.scheme, "weights")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 1 << 64:
            raise Invalid(f"seed is {self.seed!r}; allowed: a whole number from 0 to 2^64 − 1")
        if isinstance(self.gain, bool) or not isinstance(self.gain, int | float) or not 0 < self.gain < float("inf"):
            raise Invalid(f"gain is {self.gain!r}; allowed: a number above 0")


@torch.no_grad()
def draw_weights(model: nn.Module, origin: Origin, names: Iterable[str] | None = None) -> None:
    """Draw prunable weights of `model` anew, in place, and set the biases of their layers to zero.

    A weight is gain · √variance · draw: products in float64, rounded once to float32 and then to the weight's own
    type. Its draws are stream `layer` of the seed (see `prunus.core.counter`) with `layer` its position in
    `prunable(model)`, and in row-major order, so that they depend on no other layer, nor on `names`.

    Args:
        model: any `nn.Module` without parametrizations.
        origin: what to draw from.
        names: those weights only. Default: all that `prunable(model)` lists.

    Raises:
        Invalid: if a name is not among them. Nothing has been changed then.
    """
    for name, values in list(drawn(model, origin, names)):
        parameter = model.get_parameter(name)
        parameter.copy_(values)
        zero_biases(model, parameter)


def drawn(model: nn.Module, origin: Origin, names: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """What `draw_weights` would write: name and values, on the CPU. The model stays as it is."""
    every = prunable(model)
    chosen = list(every if names is None else names)
    for name in chosen:
        if name not in every:
            raise Invalid(f"{name!r} is no weight that can be drawn from a seed; {nearest(name, every)}")
    scheme = WEIGHTS[origin.scheme]
    for layer, (name, parameter) in enumerate(every.items()):
        if name in chosen:
            size = sqrt(scheme.variance(*_fans(model, parameter))) * float(origin.gain) * scheme.factor
            values = size * scheme.draw(origin.seed, FROZEN_WEIGHTS, layer, parameter.numel()).astype(np.float64)
            yield name, torch.from_numpy(values.astype(np.float32)).reshape(parameter.shape).to(parameter.dtype)


@torch.no_grad()
def zero_biases(model: nn.Module, weight: nn.Parameter) -> None:
    """Set the biases of all layers of `model` that hold `weight` to zero."""
    for module, attribute in owners(model, weight):
        bias = getattr(module, "in_proj_bias" if attribute.endswith("_proj_weight") else "bias", None)
        if isinstance(bias, Tensor):
            bias.zero_()


def _fans(model: nn.Module, weight: nn.Parameter) -> tuple[int, int]:
    module, _ = next(owners(model, weight))
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        return fans(module)
    rows, columns = weight.shape
    # attention's projections lie as those of nn.Linear, Hugging Face's Conv1D the other way round
    inputs, outputs = (columns, rows) if isinstance(module, nn.MultiheadAttention) else (rows, columns)
    return max(1, inputs), max(1, outputs)
