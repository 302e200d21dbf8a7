"""Mask-1 and mask-0 actions: what kept weights start from, and what becomes of pruned ones.

*Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask* (H. Zhou, J. Lan, R. Liu, J. Yosinski, NeurIPS 2019)
takes the lottery tickets' recipe apart: kept weights go back to where they started, and pruned ones to zero; here each
of the two is a choice of its own. `started` makes a `Start` of it, under which `hold_frozen` trains a model.

Two of the paper's experiments need no more than this. Its supermasks without training are the starts of `"rewind"` or
`"signed-constant"` with `"zero"`, under the masks of `large-final-same-sign`, loaded and tested as they are. A control
in which pruned weights start at zero but are trained with the others is the start of `"zero"`, loaded and not held.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.registry import Table
from prunus.tickets.controls import Fresh
from prunus.tickets.mask_criteria import check_weights


@dataclass(frozen=True, eq=False)
class Start:
    """Where training starts, and what of it is trained.

    Attributes:
        weights: all the tensors of the initial weights by name, those of masked parameters changed; copies.
        trainable: for each masked parameter, the entries that are trained. The others keep their starting value, zero
            or not.
    """

    weights: Mapping[str, Tensor]
    trainable: Masks


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """What an action is told of one layer; all tensors have its shape, and one device.

    Attributes:
        initial: the initial weights.
        final: the trained weights that the mask was made from.
        kept: bool, True where the mask keeps a weight.
        fresh: weights drawn anew, if there are any.
        generator: of whatever is drawn; a CPU generator, None for torch's own.
    """

    initial: Tensor
    final: Tensor
    kept: Tensor
    fresh: Tensor | None = None
    generator: torch.Generator | None = None

    def permuted(self, values: Tensor) -> Tensor:
        """The same values at random positions."""
        order = torch.randperm(values.numel(), generator=self.generator).to(values.device)
        return values.reshape(-1)[order].reshape(values.shape)

    @property
    def shrunk(self) -> Tensor:
        """Where training made the absolute value smaller."""
        return self.final.abs() < self.initial.abs()


#: A layer to a tensor of its shape: the starting values, of which those of kept weights are used.
OneAction = Callable[[LayerWeights], Tensor]
#: A layer to a bool tensor of its shape: the weights that start at zero. Other pruned ones stay at their initial value.
ZeroAction = Callable[[LayerWeights], Tensor]


def started(
    initial: Mapping[str, Tensor],
    final: Mapping[str, Tensor],
    masks: Masks,
    one: str = "rewind",
    zero: str = "zero",
    fresh: Fresh | None = None,
    generator: torch.Generator | None = None,
    rescaled: bool = False,
) -> Start:
    """The start of training under a mask-1 and a mask-0 action. Kept weights are trained, pruned ones are not.

    Args:
        initial: initial weights by name, such as a whole state_dict; what is not masked stays as it is.
        final: the trained weights that the masks were made from; more than those masked are welcome.
        masks: which weights are kept.
        one: a name in `ONE_ACTIONS`, for kept weights. Default: their initial values.
        zero: a name in `ZERO_ACTIONS`, for pruned weights. Default: zero.
        fresh: a newly initialised model, or its state_dict: what `reinit` starts from.
        generator: of permutations and random zeros; a CPU generator, default torch's own.
        rescaled: whether the kept weights of a layer are multiplied by its size / how many are kept.

    Raises:
        Invalid: if there is no such action, a name or shape differs, a weight is NaN, or `reinit` has nothing to take.
    """
    start, zeroed = ONE_ACTIONS.look_up(one, "one"), ZERO_ACTIONS.look_up(zero, "zero")
    anew = fresh.state_dict() if isinstance(fresh, nn.Module) else fresh
    for option, given in {"initial": initial, "final": final, "fresh": anew}.items():
        if given is not None:
            check_weights(option, given, masks)
    weights = {name: tensor.detach().clone() for name, tensor in initial.items()}
    for name, mask in masks.items():
        own = weights[name]
        drawn = None if anew is None else anew[name].detach().to(own)
        layer = LayerWeights(own, final[name].detach().to(own), mask.to(own.device), drawn, generator)
        values = start(layer)
        if rescaled:
            values = values * (mask.numel() / max(1, int(mask.sum())))
        weights[name] = torch.where(layer.kept, values, own).masked_fill_(zeroed(layer), 0)
    return Start(weights, masks)


def rewind(layer: LayerWeights) -> Tensor:
    """The initial values, as in the lottery tickets."""
    return layer.initial


def reinit(layer: LayerWeights) -> Tensor:
    """Weights that were drawn anew."""
    if layer.fresh is None:
        raise Invalid("fresh is None with one='reinit'; allowed: a newly initialised model, or its state_dict")
    return layer.fresh


def permute(layer: LayerWeights) -> Tensor:
    """The initial values of the whole layer, permuted: what the authors' code calls reinitialisation."""
    return layer.permuted(layer.initial)


def reshuffle(layer: LayerWeights) -> Tensor:
    """The initial values of the kept weights, permuted among them."""
    return layer.initial.masked_scatter(layer.kept, layer.permuted(layer.initial[layer.kept]))


def constant(layer: LayerWeights) -> Tensor:
    """± the standard deviation of the layer's initial weights, with their signs permuted."""
    return layer.permuted(layer.initial.sign()) * layer.initial.std(correction=0)


def signed_constant(layer: LayerWeights) -> Tensor:
    """± the standard deviation of the layer's initial weights, with their signs where they are."""
    return layer.initial.sign() * layer.initial.std(correction=0)


def signed(action: OneAction) -> OneAction:
    """The absolute values of an action under the signs of the initial weights."""

    def with_signs(layer: LayerWeights) -> Tensor:
        return action(layer).abs() * layer.initial.sign()

    with_signs.__doc__ = f"{action.__doc__} The signs are the initial ones."
    return with_signs


def zero_all(layer: LayerWeights) -> Tensor:
    """All pruned weights are zero."""
    return ~layer.kept


def freeze(layer: LayerWeights) -> Tensor:
    """No weight is zeroed: pruned ones stay at their initial value."""
    return torch.zeros_like(layer.kept)


def variant_1(layer: LayerWeights) -> Tensor:
    """Pruned weights that training made smaller are zero, the others stay at their initial value."""
    return ~layer.kept & layer.shrunk


def variant_2(layer: LayerWeights) -> Tensor:
    """Variant 1, and kept weights that training made smaller start at zero too, but are trained."""
    return layer.shrunk


def reversed_(layer: LayerWeights) -> Tensor:
    """A control: pruned weights that training made larger are zero, the others stay at their initial value."""
    return ~layer.kept & (layer.final.abs() > layer.initial.abs())


def random_zero(layer: LayerWeights) -> Tensor:
    """A control: as many pruned weights as in variant 1 are zero, drawn at random."""
    chosen = layer.permuted(layer.shrunk[~layer.kept])
    return freeze(layer).masked_scatter(~layer.kept, chosen)


#: The mask-1 actions by name.
ONE_ACTIONS: Table[OneAction] = Table(
    "mask-1 action",
    {
        "rewind": rewind,
        "reinit": reinit,
        "permute": permute,
        "reshuffle": reshuffle,
        "constant": constant,
        "signed-reinit": signed(reinit),
        "signed-permute": signed(permute),
        "signed-reshuffle": signed(reshuffle),
        "signed-constant": signed_constant,
    },
    group="prunus.one_actions",
)

#: The mask-0 actions by name.
ZERO_ACTIONS: Table[ZeroAction] = Table(
    "mask-0 action",
    {
        "zero": zero_all,
        "freeze": freeze,
        "variant-1": variant_1,
        "variant-2": variant_2,
        "reversed": reversed_,
        "random-zero": random_zero,
    },
    group="prunus.zero_actions",
)
