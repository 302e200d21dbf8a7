"""What a topology update did, as a record."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from prunus.core.errors import Invalid

#: How many weights, by parameter name.
Counts = Mapping[str, int]
_COUNTS = ("dropped", "grown", "kept")


@dataclass(frozen=True)
class Update:
    """One topology update: how many weights of each parameter it dropped and grew, and how many it left.

    Attributes:
        step: the number of the optimizer's step after which it was made, from 1.
        fraction: of the active weights that were to be dropped, in [0, 1].
        dropped: how many weights were kept before and are no longer, by parameter name.
        grown: how many are kept and were not before.
        kept: how many are kept after it.
    """

    step: int
    fraction: float
    dropped: Counts
    grown: Counts
    kept: Counts

    def to_json(self) -> dict[str, Any]:
        """A plain dict of numbers, and of dicts of numbers, for a record in JSON."""
        counts = {name: dict(getattr(self, name)) for name in _COUNTS}
        return {"step": self.step, "fraction": self.fraction, **counts}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            Invalid: if an entry is missing, is not known, or is not the number that it has to be.
        """
        names = ("step", "fraction", *_COUNTS)
        if not isinstance(record, Mapping) or set(record) != set(names):
            raise Invalid(f"the record of an update is {record!r}; allowed: a mapping with {', '.join(names)}")
        if not is_whole(record["step"], 1):
            raise Invalid(f"step of an update is {record['step']!r}; allowed: a whole number of at least 1")
        fraction = record["fraction"]
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
            raise Invalid(f"fraction of an update is {fraction!r}; allowed: a number in [0, 1]")
        counts = {name: check_counts(f"{name} of an update", record[name]) for name in _COUNTS}
        return cls(record["step"], float(fraction), **counts)


def check_counts(what: str, counts: object) -> dict[str, int]:
    """`counts` as a dict of its own.

    Raises:
        Invalid: if it is not a mapping from names to whole numbers of at least 0.
    """
    if not isinstance(counts, Mapping):
        raise Invalid(f"{what} is {counts!r}; allowed: a mapping from parameter name to number of weights")
    for name, count in counts.items():
        if not isinstance(name, str) or not is_whole(count, 0):
            raise Invalid(f"{what} has {count!r} for {name!r}; allowed: a whole number of at least 0 for each name")
    return dict(counts)


def is_whole(value: object, least: int) -> bool:
    """Whether it is a whole number of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
