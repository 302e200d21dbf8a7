"""Exact selection over tensors that lie in pieces in many processes, without bringing the scores together.

The bits of floats, read as integers, can be put in the order of the floats. So the smallest score that is kept can be
found digit by digit, from the highest: each process counts how many of its scores have each value of the digit, the
counts of all processes are summed, and the sums say which value that score has there. The next pass counts only what
agrees with it so far. (Radix selection: Alabi, Blanchard, Gordon and Steinbach, "Fast k-selection algorithms for
graphics processing units", 2012, ACM JEA; here the histograms are summed over processes.)
"""

import hashlib
import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid
from prunus.core.largest import FLOATS, INTEGERS, Cut, Part, keep_upto, none_kept, parts_of, widest
from prunus.core.masks import Masks
from prunus.core.select import aligned, check_count, check_names, checked

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

#: Bits of a digit where there is one selection, and where each tensor has its own.
JOINT, APART = 16, 11
#: Entries looked at together on an accelerator; what is made of them takes a few times their memory.
PIECE = 2**22
#: Bytes of the line in which one process tells the others what is wrong.
LINE = 1024

#: What one process does: each tensor that it yields is answered with the sum of all that the processes yield there.
Steps = Generator[Tensor, Tensor, Masks]


def select_sharded(
    scores: Mapping[str, Tensor],
    keep: int | Mapping[str, int],
    *,
    group: "ProcessGroup | None" = None,
    within: Masks | None = None,
) -> Masks:
    """Masks of this process's pieces of the scores that keep the largest of all processes. Every process calls it.

    Bit for bit what `select_count`, or `select_counts`, gives for the whole tensors: exactly so many, and ties by
    position, in the order of the parameters and then the row-major order in each. The scores stay where they are:
    beyond the masks, at a byte a weight, a process needs a few temporaries of fixed size (of the size of a tensor
    that is not contiguous).

    What a process sends does not depend on the number of weights. Each of these is one sum over all processes
    (`all_reduce`); R is the number of processes, L that of tensors:

    - 24 R bytes, by which they make sure that all were asked the same and nothing is wrong in any.
    - For each pass a histogram. For the largest of all together a digit has 16 bits: 512 KiB, in two passes for
      floats of up to 32 bits, in four for others. Where each tensor has a count it has 11 bits: L · 16 KiB, in three
      passes or six.
    - 8 L R bytes, only where of equal scores some are kept and some are not.

    Args:
        scores: for each parameter the piece that this process holds, of floats or integers; larger means keep. The
            names are the same, in the same order, in every process. A piece is a run of the parameter in row-major
            order, and may be empty; the pieces are in the order of the ranks in `group`. A parameter that several
            processes hold whole is given by one of them, and is empty in the others. Or DTensors, as the parameters
            under `fully_shard` are: split by rows, `Shard(0)`, over a mesh of one dimension, whose group is taken.
        keep: how many of all together; or for each name, how many of that parameter.
        group: the processes. Default: those of the DTensors' mesh; for plain tensors, this process alone.
        within: only weights that these masks keep are candidates: masks of this process's pieces.

    Returns:
        Masks of the shapes of the pieces (for a DTensor, of its local tensor), on their devices.

    Raises:
        Invalid: in every process, whichever of them it is true of: a score is NaN, there are fewer candidates than
            are to be kept, a name or shape differs, a DTensor is split in another way.
    """
    mesh = _mesh(scores)
    if mesh is None:
        local = scores
    elif group is not None:
        raise Invalid("group is given, and the scores are DTensors, which have a group; allowed: one of the two")
    else:
        local = {name: tensor.detach().to_local() for name, tensor in scores.items()}  # type: ignore[attr-defined]
        group = mesh.get_group()
    if group is None:
        return _together(selection(local, keep, within, 0, 1), lambda tensor: tensor)
    from torch import distributed

    rank = distributed.get_rank(group)
    if rank < 0:
        raise Invalid("this process is not in the group that is to select; allowed: processes that are")
    size, device = distributed.get_world_size(group), _place(distributed.get_backend(group), local)

    def summed(tensor: Tensor) -> Tensor:
        tensor = tensor.to(device)
        distributed.all_reduce(tensor, group=group)
        return tensor

    return _together(selection(local, keep, within, rank, size), summed)


def selection(
    scores: Mapping[str, Tensor], keep: int | Mapping[str, int], within: Masks | None, rank: int, size: int
) -> Steps:
    """What process `rank` of `size` does; see `select_sharded`. Who takes the steps does the summing."""
    dtype, within = yield from _agreed(scores, keep, within, rank, size)
    kept = {name: none_kept(tensor) for name, tensor in scores.items()}
    among = [None] * len(scores) if within is None else aligned(scores, within)
    layers = [list(parts_of(*row, dtype, PIECE)) for row in zip(scores.values(), among, kept.values(), strict=True)]
    if isinstance(keep, Mapping):
        groups, wanted = [[layer] for layer in layers], {f"the count of {name}": keep[name] for name in scores}
    else:
        groups, wanted = [layers], {"keep": keep}
    if groups:
        cuts = yield from _cuts(groups, wanted, dtype, _home(scores))
        shares = yield from _shares(groups, cuts, rank, size)
        for layer, cut in zip(layers, shares, strict=True):
            if cut is not None:
                keep_upto(cut, layer)
    return Masks._made(kept)


def _together(steps: Steps, summed: Callable[[Tensor], Tensor]) -> Masks:
    """Take the steps, with `summed` for the sum over all processes."""
    try:
        tensor = next(steps)
        while True:
            tensor = steps.send(summed(tensor))
    except StopIteration as done:
        return done.value


def _agreed(
    scores: Mapping[str, Tensor], keep: int | Mapping[str, int], within: Masks | None, rank: int, size: int
) -> Generator[Tensor, Tensor, tuple[torch.dtype, Masks | None]]:
    """The type to compare in, and the candidates. What is wrong in one process is an error in each, and none waits."""
    here, problem = {tensor.dtype for tensor in scores.values()}, ""
    try:
        within = checked(scores, within)
        if isinstance(keep, Mapping):
            check_names(scores, keep)
    except Invalid as error:
        problem = str(error)
    asked = 0 if problem else _fingerprint(scores, keep)
    said = torch.zeros(size, 3, dtype=torch.int64)
    said[rank] = torch.tensor([bool(problem), asked, sum(1 << _DTYPES.index(d) for d in here & {*_DTYPES})])
    said = (yield said).cpu()
    if said[:, 0].any():
        first = int(said[:, 0].argmax())
        message = (yield _bytes(problem if rank == first else "")).cpu()
        raise Invalid(bytes(message.tolist()).rstrip(b"\0").decode(errors="ignore"))
    if (said[:, 1] != asked).any():
        raise Invalid("the processes differ in keep or in the names of scores; allowed: the same, in the same order")
    return widest({d for bit, d in enumerate(_DTYPES) if (said[:, 2] >> bit & 1).any()}), within


def _cuts(
    groups: list[list[list[Part]]], wanted: Mapping[str, int], dtype: torch.dtype, device: torch.device
) -> Generator[Tensor, Tensor, list[Cut | None]]:
    """Where each group of tensors is cut, over all processes; None where nothing is kept."""
    left = inside = torch.empty(0)
    known: list[int] = []  # of the smallest score that each group keeps: its image as far as it is known
    for digit in _digits(_BITS[dtype], JOINT if len(groups) == 1 else APART):
        bases = [digit.base(higher) for higher in known or [None] * len(groups)]
        counts = torch.zeros(len(groups), digit.values, dtype=torch.int64, device=device)
        for group, base, keep, row in zip(groups, bases, wanted.values(), counts, strict=True):
            for part in chain.from_iterable(group) if keep or not known else ():
                row += digit.histogram(part, base).to(device)
        counts = (yield counts).cpu()
        if not known:
            for (what, keep), room in zip(wanted.items(), counts.sum(1).tolist(), strict=True):
                check_count(what, keep, room)
            left = torch.tensor(list(wanted.values()))
        places, left, inside = _descend(counts, left)
        known = [base + place for base, place in zip(bases, places.tolist(), strict=True)]
    rows = zip(wanted.values(), known, inside.tolist(), left.tolist(), strict=True)
    return [Cut(_value(image, dtype), ties, rest) if keep else None for keep, image, ties, rest in rows]


@dataclass(frozen=True)
class _Digit:
    """Some bits of an image, and how many lie below them; the highest bits have its sign."""

    width: int
    shift: int
    highest: bool

    @property
    def values(self) -> int:
        return 1 << self.width

    def base(self, higher: int | None) -> int:
        """The image down to this digit where it has its smallest value, after the digits that are higher."""
        return -self.values // 2 if higher is None else higher << self.width

    def histogram(self, part: Part, base: int) -> Tensor:
        """How many candidates have each value of the digit, of those that have the base's higher digits."""
        if self.highest:
            places = _images(part.ordered(), part.dtype) >> self.shift
            places -= base
        else:
            # a look at the values spares the images of most; where some are flushed to zero it lets too many through
            lo, hi = _value(base << self.shift, part.dtype), _value((base + self.values << self.shift) - 1, part.dtype)
            places = _images(part.ordered(lambda x: (x >= lo) & (x <= hi)), part.dtype) >> self.shift
            places = places[(places >= base) & (places < base + self.values)] - base
        return torch.bincount(torch.as_tensor(places), minlength=self.values)


def _digits(bits: int, width: int) -> list[_Digit]:
    """From the highest to the lowest."""
    return [_Digit(min(width, end), max(end - width, 0), end == bits) for end in range(bits, 0, -width)]


def _descend(counts: Tensor, left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each row: the place where the `left` largest end, how many of those there are among them, and how many are.

    Args:
        counts: how many there are at each place, smallest first.
        left: at most the sum of the row.
    """
    falling = counts.flip(1)
    upto = falling.cumsum(1)
    short = (upto < left[:, None]).sum(1, keepdim=True)  # how many places from the top do not hold enough
    inside = falling.gather(1, short)
    left = left[:, None] - upto.gather(1, short) + inside
    return counts.shape[1] - 1 - short.squeeze(1), left.squeeze(1), inside.squeeze(1)


def _shares(
    groups: list[list[list[Part]]], cuts: list[Cut | None], rank: int, size: int
) -> Generator[Tensor, Tensor, list[Cut | None]]:
    """For each tensor its group's cut, with the ties that are here and those of them that are kept."""
    rows = [(layer, cut) for group, cut in zip(groups, cuts, strict=True) for layer in group]
    if all(cut is None or cut.wanted == cut.ties for _, cut in rows):
        return [cut for _, cut in rows]
    here = [0 if cut is None else sum(part.count(cut.value) for part in layer) for layer, cut in rows]
    ties = torch.zeros(len(rows), size, dtype=torch.int64)
    ties[:, rank] = torch.tensor(here)
    ties = (yield ties).cpu()
    # by position: the earlier tensor, then the earlier piece
    upto = ties.cumsum(1) if len(groups) == len(rows) else ties.view(-1).cumsum(0).view_as(ties)
    before = (upto - ties)[:, rank].tolist()
    return [
        cut and Cut(cut.value, there, min(max(cut.wanted - earlier, 0), there))
        for (_, cut), there, earlier in zip(rows, here, before, strict=True)
    ]


_DTYPES = (*FLOATS, *INTEGERS)
_BITS = {torch.float32: 32, torch.float64: 64, torch.int64: 64}


def _images(values: Any, dtype: torch.dtype) -> Any:
    """Integers in the order of the values, equal where those are: of a float the bits, turned over below zero."""
    if dtype == torch.int64:
        return values
    library: Any = np if isinstance(values, np.ndarray) else torch
    bits = (values + 0.0).view(library.int32 if dtype == torch.float32 else library.int64)  # -0.0 + 0.0 is 0.0
    return _turned(bits, dtype)


def _value(image: int, dtype: torch.dtype) -> float:
    """The value that has the image; where the image lies beyond those of the infinities, the infinity."""
    if dtype == torch.int64:
        return image
    lowest, highest = _images(torch.tensor([-inf, inf], dtype=dtype), dtype).tolist()
    bits = torch.tensor(min(max(image, lowest), highest), dtype=torch.int32 if _BITS[dtype] == 32 else torch.int64)
    return _turned(bits, dtype).view(dtype).item()


def _turned(bits: Any, dtype: torch.dtype) -> Any:
    """The bits with all but the sign turned over where the sign is set; twice is nothing."""
    turned = bits >> (_BITS[dtype] - 1)  # -1 where the sign is set, else 0
    turned &= (1 << (_BITS[dtype] - 1)) - 1
    turned ^= bits
    return turned


def _fingerprint(scores: Mapping[str, Tensor], keep: int | Mapping[str, int]) -> int:
    """A number of 63 bits that differs where the names, their order, or what is to be kept differ."""
    counts = [repr(keep[name]) for name in scores] if isinstance(keep, Mapping) else repr(keep)
    digest = hashlib.sha256(json.dumps([list(scores), counts]).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _bytes(line: str) -> Tensor:
    """The line, cut off where it is too long, as bytes."""
    return torch.tensor(list(line.encode()[:LINE].ljust(LINE, b"\0")), dtype=torch.uint8)


def _home(scores: Mapping[str, Tensor]) -> torch.device:
    """Where histograms are added up: where the scores are, if that is one place."""
    devices = {tensor.device for tensor in scores.values()}
    return devices.pop() if len(devices) == 1 else torch.device("cpu")


def _place(backend: str, scores: Mapping[str, Tensor]) -> torch.device:
    """Where a group of processes can sum."""
    if backend == "gloo":
        return torch.device("cpu")
    if backend == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return _home(scores)


def _mesh(scores: Mapping[str, Tensor]) -> "DeviceMesh | None":
    """The mesh that all scores lie on, or None where they are plain tensors.

    How tensors are split is the same in every process, so that all of them raise.
    """
    if all(type(tensor) in (Tensor, nn.Parameter) for tensor in scores.values()):
        return None  # without the import, which takes a while
    from torch.distributed.tensor import DTensor, Shard

    mesh = None
    for name, tensor in scores.items():
        if not isinstance(tensor, DTensor):
            continue
        if tensor.device_mesh.ndim != 1 or type(tensor.placements[0]) is not Shard or tensor.placements[0].dim != 0:
            how = f"{list(tensor.placements)} over a mesh of {tensor.device_mesh.ndim} dimensions"
            raise Invalid(f"the scores of {name} lie as {how}; allowed: [Shard(dim=0)] over a mesh of one dimension")
        mesh = mesh or tensor.device_mesh
        if (ranks := mesh.mesh.tolist()) != sorted(ranks):
            # PyTorch then deals out the pieces in the one order and takes their sizes from the other
            raise Invalid(f"the scores of {name} lie on a mesh of the processes {ranks}; allowed: in rising order")
    for name, tensor in scores.items():
        if mesh is not None and (not isinstance(tensor, DTensor) or tensor.device_mesh != mesh):
            raise Invalid(f"the scores of {name} do not lie on the mesh of the others; allowed: all on one, or none")
    return mesh
