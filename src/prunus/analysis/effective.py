"""Effective density: what is left of masks when weights that lie on no path are not counted.

A kept weight does nothing where no path of kept weights leads to it from an input, or on from it to an output
(Vysogorets and Kempe, "Connectivity matters: neural network pruning through the lens of effective sparsity", 2023,
JMLR). Paths are followed exactly, forwards and backwards (see `prunus.analysis.boolean`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunus.analysis.boolean import reach
from prunus.analysis.inputs import example_of
from prunus.core.errors import Invalid, nearest
from prunus.core.masks import Masks
from prunus.core.params import prunable


def effective(model: nn.Module, masks: Masks | Mapping[str, Tensor], inputs: Any = None) -> Masks:
    """The kept weights that lie on a path of kept weights from an input to an output.

    Any model does: chains, residual connections (either branch is a path), pooling, flatten, grouped convolutions,
    attention, tied weights. Paths are those of numbers, not of channels: a tap of a convolution that only ever sees
    padding is not effective, so the size of the inputs matters a little. Biases and learned tokens are no inputs: a
    unit that nothing but its bias reaches counts as absent, though with that bias, or after a normalisation that
    subtracts a mean over units, it may give a constant. Normalisation is no path from unit to unit. Attention passes
    values on also where no path leads to its queries or keys, since softmax is never zero; a gate likewise. An
    embedding's rows are all inputs.

    Args:
        model: any `nn.Module`; it is only read, and its own weights do not matter.
        masks: what is kept. Prunable weights without a mask are all kept.
        inputs: an example of what the model takes, as a tensor, a tuple of tensors or a mapping of names; only the
            shapes of its first row count (integers are taken as they are). Default: found out from the model.

    Raises:
        Invalid: if a mask is not that of a parameter, no example is found or the model does not take it, or the
            model is recurrent (`nn.LSTM` and the like).
    """
    masks = checked_masks(model, masks)
    found = reach(model, masks, example_of(model, inputs)).found
    return Masks._made({name: found[name].to(mask.device) for name, mask in masks.items()})


def effective_density(model: nn.Module, masks: Masks | Mapping[str, Tensor], inputs: Any = None) -> float:
    """The weights of `effective` over all weights that have a mask; 0 where no path is left.

    The effective compression ratio is its inverse: `effective(model, masks).compression`, infinite where no path is
    left.

    Args:
        model: as for `effective`.
        masks: as for `effective`.
        inputs: as for `effective`.

    Raises:
        Invalid: as for `effective`.
    """
    return effective(model, masks, inputs).density


def checked_masks(model: nn.Module, masks: Masks | Mapping[str, Tensor] | None) -> Masks:
    """The masks, each that of a parameter of the model. Default: all prunable weights.

    Raises:
        Invalid: if they are not, or there are none.
    """
    if not isinstance(model, nn.Module):
        raise Invalid(f"model is of type {type(model).__name__}; allowed: a torch.nn.Module")
    if masks is None:
        weights = prunable(model).items()
        masks = Masks._made({n: torch.ones(w.shape, dtype=torch.bool, device=w.device) for n, w in weights})
        if not masks:
            raise Invalid(f"{type(model).__name__} has no prunable weights (see prunus.prunable)")
    if not isinstance(masks, Mapping) or not masks:
        raise Invalid(f"masks is {masks!r}; allowed: Masks of at least one parameter")
    every = dict(model.named_parameters(remove_duplicate=False))
    first: dict[int, str] = {}
    for name, mask in masks.items():
        if name not in every:
            raise Invalid(f"masks has {name!r}, which is no parameter of the model; {nearest(name, every)}")
        if mask.shape != every[name].shape:
            raise Invalid(f"{name} is {tuple(every[name].shape)}, its mask {tuple(mask.shape)}")
        if (twin := first.setdefault(id(every[name]), name)) != name:
            raise Invalid(f"{twin} and {name} are one tied weight; give it one mask")
    return masks if isinstance(masks, Masks) else Masks(masks)
