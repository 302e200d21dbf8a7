"""One round of iterative magnitude pruning: the smallest weights that are left go."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from numbers import Real
from typing import Literal

from torch import Tensor, nn

from prunus.core.errors import Invalid, nearest
from prunus.core.masks import Masks
from prunus.core.select import select_count, select_counts
from prunus.models.roles import output_layer

#: What happens to the layer that feeds the outputs: pruned at half the rate, like the others, or not at all.
Output = Literal["half", "same", "keep"]
Scope = Literal["layerwise", "global"]
#: One rate for all layers, or one for each name or glob pattern (the first that matches counts).
Rate = float | Mapping[str, float]


def prune_round(weights: Mapping[str, Tensor], masks: Masks, rates: Mapping[str, float], scope: Scope) -> Masks:
    """The masks of the next round: a subset of `masks`, without the smallest |weights|.

    Layerwise, `round(rate × kept)` weights go from each layer. Globally, the same number in all goes from wherever
    the smallest weights are; layers of rate 0 keep all they have.

    Args:
        weights: trained weights by name; more than those masked are welcome.
        masks: what this round was trained with.
        rates: for each masked parameter the fraction of its kept weights to remove, in [0, 1).
        scope: `"layerwise"` or `"global"`.
    """
    counts = {layer.name: layer.kept - round(rates[layer.name] * layer.kept) for layer in masks.layers}
    sizes = {name: weights[name].detach().abs() for name in masks}
    if scope == "layerwise":
        return select_counts(sizes, counts, within=masks)
    rate = _joint_rate(rates)
    joint = {name: size for name, size in sizes.items() if rates[name]}
    within = Masks({name: masks[name] for name in joint})
    chosen = select_count(joint, within.kept - round(rate * within.kept), within=within)
    return Masks({name: chosen[name] if name in joint else masks[name] for name in masks})


def rates_of(model: nn.Module, masks: Masks, rate: Rate, scope: Scope, output: Output | None) -> dict[str, float]:
    """The rate of each masked parameter.

    Args:
        model: whose output layer is meant by `output`: the last linear or convolution layer, in the model's order.
        masks: over the parameters that are pruned.
        rate: see `Rate`; in [0, 1).
        scope: `"layerwise"` or `"global"`.
        output: see `Output`; None is `"half"` layer by layer, as in the paper, and `"same"` globally. Where
            `rate` is a mapping it says all there is to say, and `output` must be None.

    Raises:
        Invalid: if a rate is out of range, a pattern matches nothing, or a layer has no rate.
    """
    if scope not in ("layerwise", "global"):
        raise Invalid(f"scope is {scope!r}; {nearest(scope, ('layerwise', 'global'))}")
    if output not in (None, "half", "same", "keep"):
        raise Invalid(f"output is {output!r}; {nearest(str(output), ('half', 'same', 'keep'))}")
    if isinstance(rate, Mapping):
        if output is not None:
            raise Invalid(f"output is {output!r} beside rates by name; allowed: one of the two")
        rates = _rates_by_pattern(masks, rate)
        if scope == "global":
            _joint_rate(rates)
        return rates
    rate = _check_rate("rate", rate)
    rates = dict.fromkeys(masks, rate)
    last = output_layer(model)
    if output is None:
        output = "half" if scope == "layerwise" else "same"
    if last in rates and output != "same":
        if output == "half" and scope == "global":
            raise Invalid("output is 'half' with scope 'global', which prunes at one rate; allowed: 'same' or 'keep'")
        rates[last] = rate / 2 if output == "half" else 0.0
    return rates


def _joint_rate(rates: Mapping[str, float]) -> float:
    """The one rate of the layers that are pruned together; layers of rate 0 stay out of it."""
    several = {rate for rate in rates.values() if rate}
    if len(several) > 1:
        raise Invalid(f"the rates are {sorted(several)} with scope 'global'; allowed: one rate, and 0")
    return max(several, default=0.0)


def _rates_by_pattern(masks: Masks, rate: Mapping[str, float]) -> dict[str, float]:
    for pattern, value in rate.items():
        _check_rate(f"rate[{pattern!r}]", value)
        if not any(fnmatchcase(name, pattern) for name in masks):
            raise Invalid(f"rate[{pattern!r}] matches no masked parameter; {nearest(pattern, masks)}")
    rates = {n: next((v for p, v in rate.items() if fnmatchcase(n, p)), None) for n in masks}
    if missing := [name for name, value in rates.items() if value is None]:
        raise Invalid(f"rate has no pattern for {missing[0]!r}; add one, or '*' for all others")
    return {name: value for name, value in rates.items() if value is not None}


def _check_rate(name: str, rate: float) -> float:
    if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 <= rate < 1:
        raise Invalid(f"{name} is {rate!r}; allowed: a fraction in [0, 1) of the weights that are left")
    return float(rate)
