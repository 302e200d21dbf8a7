"""`SRigL`: RigL with a constant fan-in, in which units that little speaks for are given up."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from fnmatch import fnmatchcase
from math import floor
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid, nearest
from prunus.core.masks import Masks
from prunus.core.params import Globs, patterns_of, prunable
from prunus.sparse_training.beginning import counts_of
from prunus.sparse_training.dynamic import Choice
from prunus.sparse_training.layer import SparseLayer, largest, marked
from prunus.sparse_training.pattern import ConstantFanIn, Pattern, top_of_rows
from prunus.sparse_training.rigl import RigL
from prunus.sparse_training.schedule import is_number


@dataclass(eq=False)
class SRigL(RigL):
    """RigL in which each output unit or filter has either F weights, the same number in all of a layer, or none.

    Lasby, Golubeva, Evci, Nica and Ioannou, "Dynamic sparse training with structured sparsity", 2024, ICLR. At an
    update, in a layer with A active weights and a budget of N (what its density gives it at the beginning):

    1. k = ⌊f · A⌋; the A − k active weights of the largest |θ| are kept;
    2. a weight is salient if it is kept, or among the k of the largest |∂L/∂θ| of the layer;
    3. units with fewer than max(1, γ · F) salient weights are given up: all their weights go. At least ⌈N / inputs⌉
       units stay, those with the most salient weights;
    4. F becomes ⌊N / units that stay⌋;
    5. each of these keeps the largest |θ| of its kept weights, at most F, and grows by |∂L/∂θ| what it lacks.

    So there are at most N weights, and fewer than one for each unit are missing. A unit that was given up may come
    back, since its gradients count in step 2. Its bias and what follows it are not touched: it gives a constant.

    The paper has the gradients of inactive weights in step 2, the authors' code (and this) those of all; the paper
    drops the k smallest weights after the units, their code selects the A − k again among the units that stay, and
    here those of step 1 count. Their code compares with the fan-in before any unit was given up instead of the F of
    now, keeps arbitrary weights of a unit that has more than F, leaves Adam's moments of changed weights, and takes a
    unit for given up if its weights add up to 0; none of that is so here.

    Example:
        >>> import torch, prunus
        >>> model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> srigl = prunus.sparse_training.SRigL(model, optimizer, density=0.2, total_steps=400)
        >>> srigl.masks["0.weight"].sum(1).unique()
        tensor([2])

    Args:
        pattern: "fan-in", and no other.
        ablation: whether units are given up; without, it is RigL with a constant fan-in.
        gamma: γ, in [0, 1]: the authors take 0.3 for convolutional networks and 0.95 for vision transformers.
        keep_all: glob patterns on the names of layers that give up no unit. Default: the last prunable layer of the
            model.

    The other arguments are those of `Dynamic` and `SparseTraining`.

    Attributes:
        budgets: how many weights each layer may have, by name.
    """

    name: ClassVar[str] = "srigl"

    _: KW_ONLY
    pattern: str | Pattern | None = "fan-in"
    ablation: bool = True
    gamma: float = 0.3
    keep_all: Globs | None = None

    budgets: dict[str, int] = field(init=False, repr=False)

    _whole: set[str] = field(init=False, repr=False)  # the layers that give up no unit

    def first_masks(self, weights: Mapping[str, nn.Parameter], axes: Mapping[str, int]) -> Masks:
        """Random ones, or those of the user."""
        masks = super().first_masks(weights, axes)
        self._whole = self._whole_layers(weights)
        self.budgets = {layer.name: layer.kept for layer in masks.layers}
        if self.density is not None:  # the masks have less, where it is no multiple of the units
            self.budgets = counts_of(weights, self.density, self.scope, self._pattern)
        return masks

    @property
    def units(self) -> dict[str, int]:
        """How many units of each layer have weights, by name."""
        return {name: int(self._rows(layer).any(1).sum()) for name, layer in self.layers.items()}

    def choice(self, name: str, layer: SparseLayer, fraction: float, step: int) -> Choice:
        """What one layer keeps and grows."""
        if not self.ablation or name in self._whole:
            return super().choice(name, layer, fraction, step)
        groups, gradient = self._groups(layer), self.growth(layer, step)
        count = floor(fraction * layer.kept)
        kept = marked(self.strongest(layer, layer.kept - count), layer.size)
        salient = (kept | marked(largest(gradient, count), layer.size))[groups].sum(1)
        fan_in = layer.kept // int(self._rows(layer).any(1).sum())
        least = -(-self.budgets[name] // groups.shape[1])
        groups = groups[staying(salient, max(1.0, self.gamma * fan_in), least)]
        fan_in = self.budgets[name] // len(groups)

        # A weight that is not kept comes after all that are, and one that is kept before all that may grow.
        magnitudes = layer.magnitudes(groups).masked_fill_(~kept[groups], -1)
        kept = top_of_rows(magnitudes, fan_in) & kept[groups]
        scores = gradient[groups].clamp_(max=torch.finfo(gradient.dtype).max).masked_fill_(kept, float("inf"))
        grown = top_of_rows(scores, fan_in) & ~kept
        return name, (groups[kept].sort().values, groups[grown].sort().values)

    def own_state(self) -> dict[str, Any]:
        """The budgets too."""
        return {**super().own_state(), "budgets": dict(self.budgets)}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        super().load_own_state(state)
        self.budgets = {name: int(state["budgets"][name]) for name in self.layers}

    def _check(self) -> None:
        super()._check()
        if not isinstance(self.pattern, ConstantFanIn):
            raise Invalid(f"pattern is {self.pattern!r}; allowed with SRigL: 'fan-in'")
        if not is_number(self.gamma) or not 0 <= self.gamma <= 1:
            raise Invalid(f"gamma is {self.gamma!r}; allowed: a number in [0, 1]")

    def _whole_layers(self, weights: Mapping[str, nn.Parameter]) -> set[str]:
        if self.keep_all is None:
            return set(list(prunable(self.model))[-1:])
        found: set[str] = set()
        for glob in patterns_of(self.keep_all):
            matched = {name for name in weights if fnmatchcase(name, glob)}
            if not matched:
                raise Invalid(f"keep_all={glob!r} matches no masked weight; {nearest(glob, weights)}")
            found |= matched
        return found

    def _groups(self, layer: SparseLayer) -> Tensor:
        groups = self.groups(layer)
        assert groups is not None
        return groups

    def _rows(self, layer: SparseLayer) -> Tensor:
        """The mask, [units, inputs]."""
        return layer.mask.reshape(-1)[self._groups(layer)]


def staying(salient: Tensor, threshold: float, least: int) -> Tensor:
    """The units with at least `threshold` salient weights, or the `least` with the most; of equal ones the first.

    Args:
        salient: how many each unit has, int64 [units].
        threshold: salient weights that a unit must have.
        least: how many units stay.

    Returns:
        Ascending, int64.
    """
    most = salient.argsort(descending=True, stable=True)
    enough = max(int((salient >= threshold).sum()), least)
    return most[:enough].sort().values
