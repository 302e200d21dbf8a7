"""`DataSet`: images and labels, split into training, validation and test."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from prunus.core.errors import Invalid
from prunus.core.seeds import generator
from prunus.data.batches import constants, scale_and_shift, standardisation


@dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 [N, C, H, W] and their labels int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, positions: Tensor | slice) -> "Split":
        return Split(self.images[positions], self.labels[positions])

    def to(self, device: torch.device | str) -> "Split":
        """The same examples on `device`."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Decoded:
    """A data set as its source has it, before a validation split is held out."""

    classes: tuple[str, ...]
    train: Split
    test: Split


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set with three disjoint splits.

    Attributes:
        name: what it is called: the built-in name, the hub id, or the folder's own name.
        classes: the name of each class, by label.
        train: what is trained on.
        validation: held out of the source's training split; whatever is chosen is chosen on it.
        test: only reported.
        mean: mean of each channel over `train`, in units of the full range, float64 [C].
        std: standard deviation likewise (1 where a channel is constant).
        digest: 64 hexadecimal digits, the hash of all images and labels and of which split they are in. The same
            data has the same digest, wherever it came from.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    mean: Tensor
    std: Tensor
    digest: str

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    def normalise(self, images: Tensor) -> Tensor:
        """Images of this set, uint8 [N, C, H, W] on its device, with mean 0 and deviation 1, as float32."""
        return scale_and_shift(images, *self.constants)

    @cached_property
    def constants(self) -> tuple[Tensor, Tensor]:
        return constants(self.mean, self.std, self.train.images.device)

    def in_unit_range(self) -> "DataSet":
        """The same data, which `normalise` then only scales to [0, 1]."""
        return replace(self, mean=torch.zeros_like(self.mean), std=torch.ones_like(self.std))

    def to(self, device: torch.device | str) -> "DataSet":
        """The same data on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("train", "validation", "test", "mean", "std")}
        return replace(self, **moved)


def hold_out(
    name: str, decoded: Decoded, validation: int | float | None, seed: int, examples: int | None = None
) -> DataSet:
    """The data set in which `validation` examples are held out of the training split (see `load`)."""
    total = len(decoded.train)
    held = _validation_size(validation, total)
    left = total - held
    if examples is not None and (isinstance(examples, bool) or not 1 <= examples <= left):
        raise Invalid(f"examples is {examples!r}; allowed: from 1 to the {left} that are not held out, or none for all")
    order = torch.randperm(total, generator=generator(seed, "validation split"))
    # both parts keep the order of the source: which examples are held out is random, nothing else
    validation_part = decoded.train[order[:held].sort().values]
    train = decoded.train[order[held : held + (left if examples is None else examples)].sort().values]
    mean, std = standardisation(train.images)
    digest = _digest(len(decoded.classes), train, validation_part, decoded.test)
    return DataSet(name, decoded.classes, train, validation_part, decoded.test, mean, std, digest)


def _validation_size(validation: int | float | None, total: int) -> int:
    if validation is None:
        validation = 5000 if total >= 50_000 else 0.1
    allowed = f"a fraction in (0, 1), or a number of examples from 1 to {total - 1}"
    if isinstance(validation, bool) or not isinstance(validation, int | float) or not 0 < validation < total:
        raise Invalid(f"validation is {validation!r}; allowed: {allowed}")
    if isinstance(validation, int):
        return validation
    if validation >= 1:
        raise Invalid(f"validation is {validation!r}; allowed: {allowed}")
    return min(max(1, round(validation * total)), total - 1)


def _digest(classes: int, *splits: Split) -> str:
    digest = hashlib.sha256(f"{classes} classes".encode())
    for split in splits:
        digest.update(str(tuple(split.images.shape)).encode())
        for tensor in (split.images, split.labels):
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
