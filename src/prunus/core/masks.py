"""`Masks`: which weights of a network are there."""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from prunus.core.allocation import Allocation, allot
from prunus.core.errors import Invalid, check_density, nearest
from prunus.core.largest import largest
from prunus.core.params import Globs, prunable
from prunus.core.summary import Layer, Summary


class Masks(Mapping[str, Tensor]):
    """An immutable mapping from parameter name to a bool tensor: True where the weight is kept.

    The tensors given are copied; those handed out are the masks' own and are not to be written to.

    Args:
        tensors: for each parameter name, a bool tensor of the parameter's shape, or one that holds only 0 and 1.

    Raises:
        Invalid: if a tensor holds anything but 0 and 1.
    """

    __slots__ = ("_kept", "_tensors")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = {str(name): _as_bool(name, tensor) for name, tensor in tensors.items()}
        self._kept: dict[str, int] | None = None

    @classmethod
    def _made(cls, tensors: dict[str, Tensor]) -> Self:
        """Masks of bool tensors that nobody else holds, without the copy."""
        masks = cls.__new__(cls)
        masks._tensors, masks._kept = tensors, None
        return masks

    @classmethod
    def full(cls, model: nn.Module, include: Globs | None = None, exclude: Globs | None = None) -> Self:
        """Masks that keep every prunable weight of `model` (see `prunable`)."""
        weights = prunable(model, include, exclude)
        return cls._made({n: torch.ones(p.shape, dtype=torch.bool, device=p.device) for n, p in weights.items()})

    @classmethod
    def random(
        cls,
        model: nn.Module,
        density: float,
        scope: str | Allocation = "uniform",
        generator: torch.Generator | None = None,
        include: Globs | None = None,
        exclude: Globs | None = None,
    ) -> Self:
        """Masks that keep `round(density × n)` prunable weights of `model` at random positions.

        Args:
            model: any `nn.Module`.
            density: fraction kept, in (0, 1].
            scope: how the density is shared among the layers (see `select`).
            generator: a CPU generator; the same state gives the same masks, on any device. Default: torch's own.
            include: glob patterns on names (see `prunable`).
            exclude: glob patterns on names to leave out.
        """
        weights = prunable(model, include, exclude)
        # float64: draws tie so rarely that the order of positions does not show
        draws = {n: torch.rand(p.shape, generator=generator, dtype=torch.float64) for n, p in weights.items()}
        keep = round(check_density(density) * sum(draw.numel() for draw in draws.values()))
        counts = allot(scope, draws, keep)
        return cls._made({n: largest([draws[n]], counts[n])[0].to(p.device) for n, p in weights.items()})

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._tensors[name]
        except KeyError:
            raise KeyError(f"no mask named {name!r}; {nearest(str(name), self._tensors)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def layers(self) -> list[Layer]:
        """One row for each parameter, in order."""
        if self._kept is None:
            self._kept = {name: int(torch.count_nonzero(mask)) for name, mask in self._tensors.items()}
        return [Layer(n, tuple(m.shape), self._kept[n]) for n, m in self._tensors.items()]

    @property
    def kept(self) -> int:
        """How many weights are kept."""
        return sum(layer.kept for layer in self.layers)

    @property
    def total(self) -> int:
        """How many weights there are to keep."""
        return sum(mask.numel() for mask in self._tensors.values())

    @property
    def density(self) -> float:
        """Kept / total (1 where there is no weight)."""
        return self.kept / self.total if self.total else 1.0

    @property
    def sparsity(self) -> float:
        """1 − density."""
        return 1.0 - self.density

    @property
    def compression(self) -> float:
        """The compression ratio, total / kept (infinite where nothing is kept)."""
        return self.total / self.kept if self.kept else float("inf")

    def summary(self) -> Summary:
        """A rich table with one row for each parameter; `print` shows it too."""
        return Summary(self.layers)

    def overlap(self, other: "Masks") -> float:
        """The Jaccard index |A ∩ B| / |A ∪ B| over all weights, in [0, 1] (1 where both keep nothing)."""
        either = (self | other).kept
        return (self & other).kept / either if either else 1.0

    def shuffled(self, generator: torch.Generator | None = None) -> "Masks":
        """The same number kept in each parameter, at random positions.

        Args:
            generator: a CPU generator; the same state gives the same masks, on any device. Default: torch's own.
        """

        def shuffle(mask: Tensor) -> Tensor:
            order = torch.randperm(mask.numel(), generator=generator).to(mask.device)
            return mask.reshape(-1)[order].reshape(mask.shape)

        return Masks._made({name: shuffle(mask) for name, mask in self._tensors.items()})

    def to(self, device: torch.device | str) -> "Masks":
        """The same masks on `device`."""
        return Masks({name: mask.to(device) for name, mask in self._tensors.items()})

    def __and__(self, other: "Masks") -> "Masks":
        return self._combined(other, torch.logical_and)

    def __or__(self, other: "Masks") -> "Masks":
        return self._combined(other, torch.logical_or)

    def __invert__(self) -> "Masks":
        return Masks._made({name: ~mask for name, mask in self._tensors.items()})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masks):
            return NotImplemented
        return self.keys() == other.keys() and all(
            mask.shape == other[name].shape and torch.equal(mask, other[name].to(mask.device))
            for name, mask in self._tensors.items()
        )

    def __repr__(self) -> str:
        return f"Masks({len(self)} parameters, {self.kept:,} of {self.total:,} weights, {self.density:.4g} density)"

    def packed(self) -> dict[str, Tensor]:
        """Each mask as uint8 on the CPU, eight weights a byte in row-major order, the first in the highest bit."""
        return {
            name: torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1))) for name, mask in self._tensors.items()
        }

    @classmethod
    def unpacked(cls, packed: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> "Masks":
        """The inverse of `packed`.

        Raises:
            Invalid: if a tensor has not exactly the bytes of its shape, or bits are set past its end.
        """
        return cls._made({name: _unpack(name, packed[name], shape) for name, shape in shapes.items()})

    def _combined(self, other: "Masks", operation: Any) -> "Masks":
        if not isinstance(other, Masks):
            return NotImplemented
        if missing := self.keys() ^ other.keys():
            raise Invalid(f"the two masks are of different models: only one has {sorted(missing)[0]!r}")
        for name, mask in self._tensors.items():
            if mask.shape != other[name].shape:
                raise Invalid(f"{name} is {tuple(mask.shape)} in one mask and {tuple(other[name].shape)} in the other")
        return Masks._made({name: operation(mask, other[name].to(mask.device)) for name, mask in self.items()})


def _as_bool(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.bool:
        return tensor.detach().clone(memory_format=torch.contiguous_format)
    mask = tensor.detach() != 0
    if not torch.equal(mask.to(tensor.dtype), tensor.detach()):
        raise Invalid(f"the mask {name!r} holds values other than 0 and 1")
    return mask.contiguous()


def _unpack(name: str, packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    count = prod(shape)
    if packed.dtype != torch.uint8 or packed.shape != ((count + 7) // 8,):
        raise Invalid(
            f"the packed mask {name!r} is {packed.dtype} {tuple(packed.shape)}; "
            f"shape {tuple(shape)} needs {(count + 7) // 8} bytes"
        )
    bits = np.unpackbits(packed.numpy())
    if bits[count:].any():
        raise Invalid(f"the packed mask {name!r} has bits set past its {count} weights")
    return torch.from_numpy(bits[:count].astype(bool)).reshape(shape)
