"""Mask criteria: which weights a round keeps, judged by their initial and their final values.

The nine criteria of *Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask* (H. Zhou, J. Lan, R. Liu,
J. Yosinski, NeurIPS 2019) are `large-final` (that of the lottery tickets), `small-final`, `large-init`, `small-init`,
`large-init-large-final`, `small-init-small-final`, `magnitude-increase`, `movement` and `random`. The four that also
ask whether the sign stayed are its variants, from which it makes supermasks without training.

A criterion is a function `(initial, final, generator)` of two tensors of one shape. It gives scores of that shape:
larger is kept. All but `random` are pure, and `random` draws from the generator alone.

Two conditions at once: the paper cuts the same fraction by both, and looks for the fraction that leaves the count it
wants. An entry passes both cuts as long as its rank in either is above the cut, so its score is the smaller of the two
ranks. The count is then exact. Ranks are among the weights that are still there, and equal weights share one
rank: where all initial weights are equal, only the final ones decide.

Signs: an entry of the wrong sign scores 0. Where fewer entries than are kept score above 0, those at 0 go by
position, as ties do; for `magnitude-increase-…` they come before the ones that shrank, which score below 0.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from prunus.core.errors import Invalid, nearest
from prunus.core.masks import Masks
from prunus.core.registry import Table
from prunus.core.select import select_counts

#: `(initial, final, generator)` to scores, all of one shape.
MaskCriterion = Callable[[Tensor, Tensor, torch.Generator | None], Tensor]


def masks_by(
    criterion: str | MaskCriterion,
    initial: Mapping[str, Tensor],
    final: Mapping[str, Tensor],
    masks: Masks,
    rates: Mapping[str, float],
    generator: torch.Generator | None = None,
) -> Masks:
    """The masks of the next round: a subset of `masks`, chosen layer by layer.

    `round(rate × kept)` weights go from each layer, to the last weight; ties stay by position. The criterion sees only
    weights that are still there, as one-dimensional tensors in row-major order, of float32 at least.

    Args:
        criterion: a name in `MASK_CRITERIA`, or a function like its rows.
        initial: the weights before training by name; more than those masked are welcome.
        final: trained weights by name, likewise.
        masks: what the final weights were trained with.
        rates: for each masked parameter the fraction of its kept weights to remove, in [0, 1).
        generator: of `random`; a CPU generator, default torch's own.

    Raises:
        Invalid: if there is no such criterion, a name or shape differs, a weight is NaN or a rate is out of range.
    """
    score = MASK_CRITERIA.look_up(criterion, "mask criterion") if isinstance(criterion, str) else criterion
    check_weights("initial", initial, masks)
    check_weights("final", final, masks)
    counts = {layer.name: layer.kept - _leaving(layer.name, layer.kept, rates) for layer in masks.layers}
    scores = {name: _scores(score, initial[name], final[name], mask, generator) for name, mask in masks.items()}
    return select_counts(scores, counts, within=masks)


def check_weights(option: str, weights: Mapping[str, Tensor], masks: Masks) -> None:
    """Refuse weights that lack a masked parameter, have another shape, or hold NaN, which ranks and signs would hide.

    Raises:
        Invalid: in these cases; `option` is what the weights were given for.
    """
    for name, mask in masks.items():
        if name not in weights:
            raise Invalid(f"{option} has no {name!r}; {nearest(name, weights)}")
        if weights[name].shape != mask.shape:
            shape = tuple(weights[name].shape)
            raise Invalid(f"{name} of {option} has shape {shape}; allowed: {tuple(mask.shape)}, that of its mask")
        if weights[name].isnan().any():
            raise Invalid(f"{name} of {option} holds NaN; allowed: real numbers and ±inf")


def _leaving(name: str, kept: int, rates: Mapping[str, float]) -> int:
    if name not in rates:
        raise Invalid(f"rates has no {name!r}; {nearest(name, rates)}")
    if not 0 <= rates[name] < 1:
        raise Invalid(f"rates[{name!r}] is {rates[name]!r}; allowed: a fraction in [0, 1) of the weights that are left")
    return round(rates[name] * kept)


def _scores(
    score: MaskCriterion, initial: Tensor, final: Tensor, mask: Tensor, generator: torch.Generator | None
) -> Tensor:
    """The scores in their places; what is no candidate gets 0, which nobody looks at."""
    mask = mask.to(final.device)
    wide = torch.promote_types(torch.promote_types(initial.dtype, final.dtype), torch.float32)
    before, after = (tensor.detach().to(final.device, wide)[mask] for tensor in (initial, final))
    found = score(before, after, generator).to(final.device)
    return torch.zeros(mask.shape, dtype=found.dtype, device=found.device).masked_scatter_(mask, found)


def large_final(_initial: Tensor, final: Tensor, _generator: torch.Generator | None = None) -> Tensor:
    """|final|: what training left large, as in the lottery tickets."""
    return final.abs()


def small_final(_initial: Tensor, final: Tensor, _generator: torch.Generator | None = None) -> Tensor:
    """−|final|: what training left small."""
    return -final.abs()


def large_init(initial: Tensor, _final: Tensor, _generator: torch.Generator | None = None) -> Tensor:
    """|initial|: what was large before training."""
    return initial.abs()


def small_init(initial: Tensor, _final: Tensor, _generator: torch.Generator | None = None) -> Tensor:
    """−|initial|: what was small before training."""
    return -initial.abs()


def large_init_large_final(initial: Tensor, final: Tensor, _generator: torch.Generator | None = None) -> Tensor:
    """The smaller rank of |initial| and |final|: large before and after."""
    return torch.minimum(_ranks(initial.abs()), _ranks(final.abs()))


def small_init_small_final(initial: Tensor, final: Tensor, _generator: torch.Generator | None = None) -> Tensor:
    """The smaller rank of −|initial| and −|final|: small before and after."""
    return torch.minimum(_ranks(-initial.abs()), _ranks(-final.abs()))


def magnitude_increase(initial: Tensor, final: Tensor, _generator: torch.Generator | None = None) -> Tensor:
    """|final| − |initial|: what grew."""
    return final.abs() - initial.abs()


def movement(initial: Tensor, final: Tensor, _generator: torch.Generator | None = None) -> Tensor:
    """|final − initial|: what moved, wherever to."""
    return (final - initial).abs()


def uniform(_initial: Tensor, final: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Independent draws from [0, 1) on the CPU, in float64, where ties are rare."""
    return torch.rand(final.shape, generator=generator, dtype=torch.float64)


def large_final_same_sign(initial: Tensor, final: Tensor, _generator: torch.Generator | None = None) -> Tensor:
    """|final| where the sign stayed, else 0."""
    return torch.where(initial.sign() == final.sign(), large_final(initial, final), 0.0)


def large_final_diff_sign(initial: Tensor, final: Tensor, _generator: torch.Generator | None = None) -> Tensor:
    """|final| where the sign changed, else 0."""
    return torch.where(initial.sign() != final.sign(), large_final(initial, final), 0.0)


def magnitude_increase_same_sign(initial: Tensor, final: Tensor, _generator: torch.Generator | None = None) -> Tensor:
    """|final| − |initial| where the sign stayed, else 0."""
    return torch.where(initial.sign() == final.sign(), magnitude_increase(initial, final), 0.0)


def magnitude_increase_diff_sign(initial: Tensor, final: Tensor, _generator: torch.Generator | None = None) -> Tensor:
    """|final| − |initial| where the sign changed, else 0."""
    return torch.where(initial.sign() != final.sign(), magnitude_increase(initial, final), 0.0)


def _ranks(values: Tensor) -> Tensor:
    """How many of the values are at most as large as each: the deepest cut it passes, since equal ones pass too."""
    ordered = values.reshape(-1).sort().values
    return torch.searchsorted(ordered, values.contiguous(), right=True)


#: The mask criteria by name.
MASK_CRITERIA: Table[MaskCriterion] = Table(
    "mask criterion",
    {
        "large-final": large_final,
        "small-final": small_final,
        "large-init": large_init,
        "small-init": small_init,
        "large-init-large-final": large_init_large_final,
        "small-init-small-final": small_init_small_final,
        "magnitude-increase": magnitude_increase,
        "movement": movement,
        "random": uniform,
        "large-final-same-sign": large_final_same_sign,
        "large-final-diff-sign": large_final_diff_sign,
        "magnitude-increase-same-sign": magnitude_increase_same_sign,
        "magnitude-increase-diff-sign": magnitude_increase_diff_sign,
    },
    group="prunus.mask_criteria",
)
