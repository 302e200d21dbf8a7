"""How masks moved, as numbers at evenly spread steps."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from prunus.analysis import DeadUnits, Topology


def series(rows: Sequence[Topology], steps: int, looks: int) -> dict[str, Any]:
    """What a study files of an exploration, JSON-able.

    At each of the steps that are reported stand the masks of the last update until then; what was ever active, and
    units that died or revived, count all updates until then.

    Args:
        rows: of the exploration, one for the beginning and one for each update.
        steps: of the training.
        looks: into how many equal parts it is divided.
    """
    at = sorted({round(i * steps / looks) for i in range(looks + 1)})
    made = [row.step for row in rows]
    places = [bisect_right(made, step) - 1 for step in at]
    units = [_units(row) for row in rows]
    died = list(accumulate(each.died for each in units))
    revived = list(accumulate(each.revived for each in units))
    total = [row.total for row in rows]
    return {
        "steps": at,
        "lost": [total[i].lost for i in places],
        "distance": [total[i].jaccard_distance for i in places],
        "explored": [total[i].explored for i in places],
        "dead": [units[i].dead / units[i].units for i in places],
        "died": [died[i] for i in places],
        "revived": [revived[i] for i in places],
        "layers": {layer.name: [rows[i].layers[n].density for i in places] for n, layer in enumerate(rows[0].layers)},
    }


def _units(row: Topology) -> DeadUnits:
    """The units of which it is known what they feed: dead without weights to or from them; of all if there are none."""
    return row.total.either or row.total.incoming
