"""How masks move through training: how far they have come, what they ever kept, and which units die and revive."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunus.analysis.dead import Units
from prunus.analysis.effective import checked_masks
from prunus.analysis.topology import DeadUnits, LayerTopology, Topology
from prunus.core.errors import Invalid
from prunus.core.masks import Masks


class Exploration:
    """Follows masks through training, one look after each topology update.

    Tells the distance from the first masks in two ways (`LayerTopology.lost` and `jaccard_distance`), the share of
    weights that were ever active, densities of layers over time, and how many units died and revived. The share ever
    active is the in-time over-parameterisation of Liu et al., "Do we actually need dense over-parameterization?
    In-time over-parameterization in sparse training", 2021, ICML.

    Units are the rows of a weight, as in linear layers and convolutions, unless a model is given: it says where they
    lie in its transposed convolutions and Hugging Face's `Conv1D`, and which later weights they feed. That is followed
    through activations, norms, pooling and reshaping, but not where units meet others in a sum (a residual stream), go
    into an operation that is not known, or are the model's outputs: `either` is then None. A dead unit may still give
    a constant: its bias.

    Held are the first masks and one bool for each weight, on the first masks' device. Only counts come to the host.

    Args:
        masks: those that training starts with.
        model: the model that they are of; it is only read, and not held. Default: none.
        inputs: an example of what the model takes, as for `effective`.
        step: that they were made at. Default: 0.

    Raises:
        Invalid: if there are no masks, or `step` is not a whole number; with a model, as for `effective`.
    """

    def __init__(
        self, masks: Masks | Mapping[str, Tensor], model: nn.Module | None = None, inputs: Any = None, step: int = 0
    ) -> None:
        if model is not None:
            masks = checked_masks(model, masks)
        if not isinstance(masks, Mapping) or not masks:
            raise Invalid(f"masks is {masks!r}; allowed: Masks of at least one parameter")
        _check_step(step, 0)
        first = masks if isinstance(masks, Masks) else Masks(masks)
        self._units = Units(first, model, inputs)
        self._first = dict(first)
        self._ever = {name: mask.clone() for name, mask in first.items()}
        self._dead = self._dead_under(first)
        self._rows = [self._row(step, first, self._dead)]

    @property
    def rows(self) -> tuple[Topology, ...]:
        """One for the first masks, and one for each look."""
        return tuple(self._rows)

    @property
    def ever(self) -> Masks:
        """The weights that were ever kept, as a copy."""
        return Masks(self._ever)

    @property
    def densities(self) -> dict[str, list[float]]:
        """For each layer its density in each of `rows`."""
        return {name: [row.layers[i].density for row in self._rows] for i, name in enumerate(self._first)}

    def see(self, masks: Masks | Mapping[str, Tensor], step: int) -> Topology:
        """Take note of masks as they stand after `step`.

        Raises:
            Invalid: if they are not masks of the same parameters, or `step` is not after that of the look before.
        """
        _check_step(step, self._rows[-1].step + 1)
        now = self._checked(masks)
        for name, mask in now.items():
            self._ever[name] |= mask
        dead = self._dead_under(now)
        self._rows.append(self._row(step, now, dead))
        self._dead = dead
        return self._rows[-1]

    def state_dict(self) -> dict[str, Any]:
        """Copies of bool tensors by flat names ("first/…", "ever/…", "incoming/…", "either/…"), and "rows" for JSON."""
        tensors = {name: tensor.clone() for name, tensor in self._tensors().items()}
        return {**tensors, "rows": [row.to_json() for row in self._rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the exploration stood that gave `state`.

        Raises:
            Invalid: if it is of masks of other parameters, or one of the two knew the model and the other did not.
                Nothing has been changed then.
        """
        own = self._tensors()
        for name in sorted({*own, "rows"} ^ set(state)):
            raise Invalid(f"a state of another exploration: only one of them has {name!r}")
        for name, tensor in own.items():
            given = state[name]
            if not isinstance(given, Tensor) or given.dtype != torch.bool or given.shape != tensor.shape:
                raise Invalid(f"{name!r} of the state is no bool tensor of shape {tuple(tensor.shape)}")
        rows = _rows(state["rows"], tuple(self._first))
        for kind, tensors in self._held().items():
            for name, tensor in tensors.items():
                tensors[name] = state[f"{kind}/{name}"].to(tensor.device, copy=True)
        self._rows = rows

    def _held(self) -> dict[str, dict[str, Tensor]]:
        return {"first": self._first, "ever": self._ever, **self._dead}

    def _tensors(self) -> dict[str, Tensor]:
        return {f"{kind}/{name}": tensor for kind, tensors in self._held().items() for name, tensor in tensors.items()}

    def _dead_under(self, masks: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        incoming = self._units.without_incoming(masks)
        outgoing = self._units.without_outgoing(masks)
        return {"incoming": incoming, "either": {name: incoming[name] | idle for name, idle in outgoing.items()}}

    def _row(self, step: int, masks: Mapping[str, Tensor], dead: dict[str, dict[str, Tensor]]) -> Topology:
        return Topology(step, tuple(self._layer(name, mask, dead) for name, mask in masks.items()))

    def _layer(self, name: str, mask: Tensor, dead: dict[str, dict[str, Tensor]]) -> LayerTopology:
        first, ever = self._first[name], self._ever[name]
        found = {kind: DeadUnits.counted(of[name], self._dead[kind][name]) for kind, of in dead.items() if name in of}
        counted = torch.stack([t.count_nonzero() for t in (mask, first, mask & first, ever)]).tolist()
        return LayerTopology(name, mask.numel(), *counted, **found)

    def _checked(self, masks: Masks | Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not isinstance(masks, Mapping):
            raise Invalid(f"masks is of type {type(masks).__name__}; allowed: Masks, or a mapping of bool tensors")
        for name in sorted(masks.keys() ^ self._first.keys()):
            raise Invalid(f"masks of other parameters: only one of these and the first has {name!r}")
        masks = masks if isinstance(masks, Masks) else Masks(masks)
        for name, first in self._first.items():
            if masks[name].shape != first.shape:
                raise Invalid(f"the mask of {name} is {tuple(masks[name].shape)}, the first was {tuple(first.shape)}")
        return {name: masks[name].to(first.device) for name, first in self._first.items()}


def _rows(records: Any, names: tuple[str, ...]) -> list[Topology]:
    try:
        rows = [Topology.from_json(record) for record in records]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Invalid(f"'rows' of the state cannot be read ({type(error).__name__}: {error})") from error
    if not rows or any(tuple(layer.name for layer in row.layers) != names for row in rows):
        raise Invalid("'rows' of the state has no look at these layers")
    for before, row in zip([-1, *(row.step for row in rows)], rows, strict=False):
        _check_step(row.step, before + 1)
    return rows


def _check_step(step: object, least: int) -> None:
    if isinstance(step, bool) or not isinstance(step, int) or step < least:
        raise Invalid(f"step is {step!r}; allowed: a whole number of at least {least}")
