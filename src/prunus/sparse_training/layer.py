"""`SparseLayer`: one weight whose connections come and go, and the choices that a topology update makes in it.

Choices are row-major positions of weights, int64 and ascending, on the weight's device: of the weights that go, or
come, there are few.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunus.core.held import Held
from prunus.core.ranked import positions_of_largest


@dataclass(frozen=True, eq=False)
class Change:
    """What an update did to one layer.

    Attributes:
        dropped: positions of weights that went.
        grown: positions of weights that came.
    """

    dropped: Tensor
    grown: Tensor


class SparseLayer:
    """One weight in sparse training.

    Attributes:
        name: of the parameter.
        held: the parameter and its mask.
        axis: the dimension that its outputs are along.
        kept: how many weights are active.
        copies: of the parameter, such as moving averages; they are held under the same mask.
    """

    def __init__(self, name: str, held: Held, axis: int, kept: int) -> None:
        self.name, self.held, self.axis, self.kept = name, held, axis, kept
        self.copies: list[Held] = []
        held.moving = True

    @property
    def weight(self) -> nn.Parameter:
        """The parameter."""
        return self.held.parameter

    @property
    def size(self) -> int:
        """How many weights there are."""
        return self.weight.numel()

    @property
    def mask(self) -> Tensor:
        """Which are active: a bool tensor of the weight's shape that nobody else holds."""
        return self.held.keep.weights.mask

    @property
    def active(self) -> Tensor:
        """The positions of the active weights."""
        return self.held.keep.weights.kept()

    def magnitudes(self, positions: Tensor) -> Tensor:
        """|θ| of the weights at `positions`; NaN counts as 0."""
        return comparable(self.weight.detach().take(positions))

    def strongest(self, count: int) -> Tensor:
        """The positions of the `count` active weights of the largest |θ|."""
        active = self.active
        return active[positions_of_largest(self.weight.detach().take(active), count, absolute=True)]

    def free(self, kept: Tensor) -> Tensor:
        """A bool tensor [size]: True but at the positions `kept`."""
        return torch.ones(self.size, dtype=torch.bool, device=kept.device).index_fill_(0, kept, False)

    def random_free(self, kept: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """`count` positions among those not `kept`, each as likely as any other: the same on every device."""
        return random_positions(self.free(kept).cpu(), count, generator).to(kept.device)

    @torch.no_grad()
    def rewire(self, kept: Tensor, grown: Tensor, optimizer: Optimizer) -> Change:
        """Make `kept` and `grown` the active weights.

        Weights that go become 0, those that come begin at 0; what the optimizer remembers of both is cleared. A weight
        that is active before and after keeps its value and its moments.

        Args:
            kept: positions, disjoint from `grown`.
            grown: positions.
            optimizer: whose state has the weight's moments.
        """
        before, now = self.active, torch.cat([kept, grown])
        going, coming = difference(before, now, self.size), difference(now, before, self.size)
        changed = torch.cat([going, coming])
        for held in (self.held, *self.copies):
            put(held, going, coming)
        for tensor in (self.weight, *moments(optimizer, self.weight)):
            zero(tensor, changed)
        self.kept = len(now)
        return Change(going, coming)

    @torch.no_grad()
    def take(self, mask: Tensor, kept: int) -> None:
        """Hold the weight, and its copies, under a mask that was saved; what was loaded under another comes back."""
        self.kept = kept
        for held in (self.held, *self.copies):
            zeroed, held.zeroed = held.zeroed, None
            held.change(mask)
            if zeroed:
                positions, values = zeroed
                there = mask.reshape(-1).to(positions.device)[positions]
                held.parameter.put_(positions[there], values[there])


def put(held: Held, going: Tensor, coming: Tensor) -> None:
    """Drop and keep weights of a held parameter; those that go become 0."""
    device = held.parameter.device
    going, coming = going.to(device), coming.to(device)
    for bits in {id(b): b for b in (held.keep.weights, held.keep.gradients)}.values():
        bits.put(going, False)
        bits.put(coming, True)
    zero(held.parameter, going)


def zero(tensor: Tensor, positions: Tensor) -> None:
    """Zero the entries at row-major positions."""
    tensor.put_(positions, torch.zeros(len(positions), dtype=tensor.dtype, device=tensor.device))


def comparable(values: Tensor) -> Tensor:
    """Absolute values to select by: a new tensor, in which NaN counts as 0."""
    return values.abs().nan_to_num_(nan=0.0, posinf=float("inf"))


def largest_free(scores: Tensor, kept: Tensor, count: int) -> Tensor:
    """The positions of the `count` largest of `scores` [n] among those not `kept`.

    Args:
        scores: not negative; written to.
        kept: positions.
        count: how many.
    """
    return largest(scores.index_fill_(0, kept, -1.0), count)


def largest(scores: Tensor, count: int) -> Tensor:
    """The positions of the `count` largest of `scores` [n], ascending; of equal ones the first."""
    return positions_of_largest(scores, count, absolute=False)


def marked(positions: Tensor, size: int) -> Tensor:
    """A bool tensor [size]: True at `positions`."""
    return torch.zeros(size, dtype=torch.bool, device=positions.device).index_fill_(0, positions, True)


def difference(these: Tensor, those: Tensor, size: int) -> Tensor:
    """The positions in `these` that are not in `those`, in the order of `these`; all are below `size`."""
    there = torch.zeros(size, dtype=torch.bool, device=these.device).index_fill_(0, those, True)
    return these[~there[these]]


def moments(optimizer: Optimizer, parameter: nn.Parameter) -> Iterator[Tensor]:
    """What the optimizer remembers of each weight of a parameter: its state tensors of the parameter's shape."""
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim():
            yield value


def random_positions(free: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the positions at which `free` [n] is True, each set of them as likely as any other, ascending."""
    room = int(free.count_nonzero())
    if not 0 <= count <= room:
        raise ValueError(f"count is {count} of {room}")
    if 4 * count > room:
        places = free.nonzero().squeeze(1)
        return places[torch.randperm(room, generator=generator)[:count]].sort().values
    # few of many: draw one after the other, and leave out what is taken
    free = free.clone()
    found: list[Tensor] = []
    while count:
        drawn = torch.randint(len(free), (2 * count,), generator=generator)
        drawn = drawn[free[drawn]]
        fresh = drawn[first_of_each(drawn)][:count]
        free[fresh] = False
        found.append(fresh)
        count -= len(fresh)
    return torch.cat(found).sort().values if found else torch.zeros(0, dtype=torch.int64)


def first_of_each(values: Tensor) -> Tensor:
    """Where each value stands first, ascending."""
    order = values.sort(stable=True).indices
    sorted_values = values[order]
    first = torch.ones_like(sorted_values, dtype=torch.bool)
    first[1:] = sorted_values[1:] != sorted_values[:-1]
    return order[first].sort().values


@torch.no_grad()
def clear_moments(optimizer: Optimizer, parameter: nn.Parameter, mask: Tensor) -> None:
    """Clear what the optimizer remembers of the weights outside a mask, which it would move."""
    for tensor in moments(optimizer, parameter):
        tensor.masked_fill_(~mask, 0)
