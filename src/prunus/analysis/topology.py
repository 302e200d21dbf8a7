"""Where masks have come to after a step of training, layer by layer."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class DeadUnits:
    """Output units (or channels) without weights, in one layer or all together.

    Attributes:
        units: how many units there are.
        dead: how many of them are dead now.
        died: how many of those were not at the look before. One that dies and revives between two looks is not seen.
        revived: how many were dead at the look before and are no longer.
    """

    units: int
    dead: int
    died: int
    revived: int

    @classmethod
    def counted(cls, dead: Tensor, before: Tensor) -> Self:
        """Of which units are dead now and which were before, both bool of shape (units,)."""
        counts = torch.stack([t.count_nonzero() for t in (dead, dead & ~before, before & ~dead)])
        return cls(dead.numel(), *counts.tolist())

    @classmethod
    def sum(cls, rows: Iterable[Self]) -> Self:
        """Those of all rows together."""
        return cls(*(sum(column) for column in zip(*map(astuple, rows), strict=True)))


@dataclass(frozen=True)
class LayerTopology:
    """Where the mask of one layer has come to, or those of all together.

    Attributes:
        name: of the parameter; "all" for the sum.
        weights: how many there are.
        kept: how many the mask keeps now.
        first: how many the first mask kept.
        shared: how many of those are kept now.
        ever: how many any mask kept that was seen so far.
        incoming: units that are dead because none of their incoming weights is kept.
        either: units that are dead because none of their incoming, or none of their outgoing weights is kept; None
            where it is not known what the units feed.
    """

    name: str
    weights: int
    kept: int
    first: int
    shared: int
    ever: int
    incoming: DeadUnits
    either: DeadUnits | None = None

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """A row from what `dataclasses.asdict` makes of it."""
        either = record["either"]
        units = {"incoming": DeadUnits(**record["incoming"]), "either": None if either is None else DeadUnits(**either)}
        return cls(**{**record, **units})

    @property
    def density(self) -> float:
        """Kept / weights."""
        return _ratio(self.kept, self.weights, 1.0)

    @property
    def explored(self) -> float:
        """Ever / weights: the in-time over-parameterisation, R_s in the paper of `Exploration`."""
        return _ratio(self.ever, self.weights, 1.0)

    @property
    def lost(self) -> float:
        """The fraction of the first mask's weights that are no longer kept, in [0, 1] (0 where it kept none)."""
        return _ratio(self.first - self.shared, self.first, 0.0)

    @property
    def jaccard_distance(self) -> float:
        """1 − |A ∩ B| / |A ∪ B| of the first mask and this one, in [0, 1] (0 where both keep none)."""
        either = self.first + self.kept - self.shared
        return _ratio(either - self.shared, either, 0.0)


@dataclass(frozen=True)
class Topology:
    """Where masks have come to after a step.

    Attributes:
        step: of training.
        layers: one row for each mask, in order.
    """

    step: int
    layers: tuple[LayerTopology, ...]

    @property
    def total(self) -> LayerTopology:
        """All layers together; `either` over those of which it is known."""
        weights, kept, first, shared, ever = map(sum, zip(*map(_counts, self.layers), strict=True))
        incoming = DeadUnits.sum(layer.incoming for layer in self.layers)
        known = [layer.either for layer in self.layers if layer.either is not None]
        return LayerTopology(
            "all", weights, kept, first, shared, ever, incoming, DeadUnits.sum(known) if known else None
        )

    def to_json(self) -> dict[str, Any]:
        """Counts as plain dicts and lists."""
        return {"step": self.step, "layers": [asdict(layer) for layer in self.layers]}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(record["step"], tuple(map(LayerTopology.from_json, record["layers"])))


def _ratio(part: int, whole: int, empty: float) -> float:
    return part / whole if whole else empty


def _counts(layer: LayerTopology) -> tuple[int, ...]:
    return layer.weights, layer.kept, layer.first, layer.shared, layer.ever
