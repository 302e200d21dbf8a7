"""Who gets which cells: `deal`, of which Ray knows nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from prunus.studies.cells import Cell
from prunus.studies.schedule import Schedule


@dataclass(eq=False)
class Hand:
    """A worker as the driver knows it.

    Attributes:
        actor: Ray's handle.
        asked: the question that it has not answered yet; None where it has nothing to do.
        ready: whether it has loaded the data.
        held: the cells that it was given and has not filed, by key.
        room: variants that it could train more cells of at once.
    """

    actor: Any
    asked: Any
    ready: bool = False
    held: dict[str, Cell] = field(default_factory=dict)
    room: set[str] = field(default_factory=set)


def deal(
    schedule: Schedule, free: Sequence[Hand], hands: Sequence[Hand], first: int, doubtful: set[str]
) -> Iterator[tuple[Hand, list[Cell]]]:
    """Hand out ready cells, which are then no longer ready.

    An empty worker takes the most urgent variant. One that holds cells takes more of the same, as long as it has room
    for them, so that they can train together; if a more urgent variant is in nobody's hands, it rather runs empty and
    takes that. Nobody takes more than its share of what there is.

    Args:
        schedule: what there is.
        free: workers that can be given cells now.
        hands: all workers.
        first: how many cells keep a worker busy: so many an empty one gets, and the next time as many as it holds.
        doubtful: keys of cells that have lost their workers often: each goes alone, so that it is known which it was.
    """
    takers = [hand for hand in free if not doubtful & hand.held.keys()]
    takers = sorted((hand for hand in takers if hand.room or len(hand.held) < first), key=lambda hand: len(hand.held))
    share = -(-(schedule.ready + sum(len(hand.held) for hand in takers)) // max(1, len(takers)))
    for hand in takers:
        network = _variant(schedule.networks, hand, hands, first)
        most = min(max(first - len(hand.held), len(hand.held)), share - len(hand.held))
        cells: list[Cell] = []
        while len(cells) < most and network and (cell := schedule.take(network)):
            if cell.key in doubtful:
                if cells or hand.held:
                    schedule.put_back(cell)
                else:
                    cells.append(cell)
                break
            cells.append(cell)
        if cells:
            hand.held |= {cell.key: cell for cell in cells}
            hand.room.clear()
            yield hand, cells


def _variant(networks: Sequence[str], hand: Hand, hands: Sequence[Hand], first: int) -> str | None:
    """Of which variant the worker takes cells, of those that have any, the most urgent first."""
    if not networks or not hand.held:
        return networks[0] if networks else None
    elsewhere = {cell.network for other in hands for cell in other.held.values()}
    same = [name for name in networks if name in hand.room]
    if same and networks[0] in elsewhere:
        return same[0]
    return networks[0] if not same and len(hand.held) < first else None
