"""`load`: a data set by name, folder or hub id."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prunus.core.errors import Invalid, nearest
from prunus.core.registry import Table
from prunus.data import cache as cached
from prunus.data.dataset import DataSet, Decoded, hold_out
from prunus.data.digits import read_digits
from prunus.data.source import read_source


@dataclass(frozen=True)
class BuiltIn:
    """A row of `DATASETS`: what there is to say about a data set, and where it comes from.

    Attributes:
        note: one line for `prunus list`.
        source: a hub id (`owner/name`), or a function that gives the data.
    """

    note: str
    source: str | Callable[[], Decoded]


#: The data sets that have a name of their own; any folder or hub id works beside them.
DATASETS: Table[BuiltIn] = Table(
    "data set",
    {
        "digits": BuiltIn("1,797 grey 8×8 digits, embedded (scikit-learn)", read_digits),
        "mnist": BuiltIn("70,000 grey 28×28 digits (hub: ylecun/mnist)", "ylecun/mnist"),
        "cifar10": BuiltIn("60,000 colour 32×32 photographs in 10 classes (hub: uoft-cs/cifar10)", "uoft-cs/cifar10"),
    },
    "prunus.datasets",
)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def load(
    data: str | Path,
    *,
    validation: int | float | None = None,
    examples: int | None = None,
    seed: int = 0,
    image: str | None = None,
    label: str | None = None,
    cache: bool = True,
) -> DataSet:
    """The images and labels of a data set, decoded, with a validation split held out of the training split.

    Folders and hub ids are read with Hugging Face `datasets` and need a `train` and a `test` split; other splits
    are left aside. What was decoded is kept as one file under `PRUNUS_CACHE` (default `~/.cache/prunus`). A
    folder's file is used as long as the contents of the folder are the same. A hub id's is used from then on,
    without asking the hub: name a revision to be sure which one it is, or give `cache=False` to fetch it anew.

    Args:
        data: a name in `DATASETS`, which comes first (write `./mnist` for a folder of such a name); else an
            existing folder in a layout that `datasets` knows (`train-*.parquet` and `test-*.parquet`,
            `train/CLASS/*.png`, …); else a hub id, `owner/name` or `owner/name@revision`.
        validation: how many training examples to hold out, or which fraction of them, drawn at random from the
            seed. Default: 5,000 where there are at least 50,000 training examples, else 10 %.
        examples: how many of the other training examples to keep, drawn at random from the seed. Default: all.
        seed: the seed that these draws are made with. Default: 0.
        image: the column with the images. Default: the only one that holds images.
        label: the column with the labels. Default: `label`, or else the only one of class labels.
        cache: whether to read and write the cache. Default: yes.

    Raises:
        Invalid: if there is no such data, it holds no images, labels or test split, images differ in size or
            cannot be decoded, or `validation` or `examples` is out of range.
    """
    name, source = _find(str(data))
    try:
        decoded = source() if callable(source) else _read(source, image, label, cache)
    except ModuleNotFoundError as error:
        raise Invalid(f"data {name!r} needs {error.name}: install prunus[study]") from error
    return hold_out(name, decoded, validation, seed, examples)


def _find(data: str) -> tuple[str, str | Path | Callable[[], Decoded]]:
    """What the data is called, and its folder, hub id, or function."""
    if data in DATASETS:
        return data, DATASETS[data].source
    folder = Path(data).expanduser()
    if data and folder.is_dir():  # an empty name would be the current folder
        return folder.resolve().name, folder
    if data and folder.exists():
        raise Invalid(f"data is {data!r}, a file; allowed: a folder with its splits, a hub id, or a built-in name")
    # a bare name is never looked up on the hub: offline, any set of that name in its cache would be taken for it
    if not _HUB_ID.fullmatch(data):
        raise Invalid(
            f"data is {data!r}: no such folder, hub id (owner/name) or built-in name; {nearest(data, DATASETS)}"
        )
    return data, data


def _read(source: str | Path, image: str | None, label: str | None, cache: bool) -> Decoded:
    if not cache:
        return read_source(source, image, label)
    file = cached.file_for(source, image, label)
    decoded = cached.fetch(file)
    if decoded is None:
        decoded = read_source(source, image, label)
        cached.store(file, decoded)
    return decoded
