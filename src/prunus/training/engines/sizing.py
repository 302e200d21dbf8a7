"""How many lanes to have at once: as many as go on making each of them cheaper, and as memory allows."""

#: Lanes to begin with.
FIRST = 4
#: A doubling pays if the time of a lane's step falls below this fraction of what it was.
PAYS = 0.95
#: Reports at a size, the quickest of which counts: others are slowed by what else the machine does.
REPORTS = 3


class Sizing:
    """The size of a stack, from what is reported of it while it trains.

    It starts small and doubles as long as a step of each lane takes over 5 % less time than at the size before, and as
    the lanes that would come fit into memory; else it goes back to the best size, and stays there. Sizes are only
    tried when there are lanes enough to fill them.

    Args:
        first: lanes to begin with.
    """

    def __init__(self, first: int = FIRST) -> None:
        self._size = first
        self._settled = False
        self._times: list[float] = []
        self._best: tuple[int, float] | None = None  # lanes, and seconds of a lane's step
        self._memory: list[int] = []  # what each size took, in bytes

    @property
    def size(self) -> int:
        """How many lanes to have."""
        return self._size

    @property
    def settled(self) -> bool:
        """Whether no other size will be tried."""
        return self._settled

    def report(self, lanes: int, seconds: float, memory: int, free: int) -> None:
        """Take note of how a stack trained.

        Args:
            lanes: how many there were; numbers other than `size` say nothing.
            seconds: time of one step of all of them.
            memory: bytes that they took at most.
            free: bytes that were free beside.
        """
        if self._settled or lanes != self._size:
            return
        self._times.append(seconds / lanes)
        if len(self._times) < REPORTS:
            return
        each, self._times = min(self._times), []
        if self._best is not None and each >= PAYS * self._best[1]:
            self._size, self._settled = self._best[0], True
            return
        self._best = lanes, each
        self._memory.append(memory)
        if self._next_takes() <= free:
            self._size *= 2
        else:
            self._settled = True

    def _next_takes(self) -> int:
        """Bytes that the next doubling will take: as many lanes come as are there, twice as many as came before."""
        if len(self._memory) == 1:
            return self._memory[0]
        return 2 * max(0, self._memory[-1] - self._memory[-2])
