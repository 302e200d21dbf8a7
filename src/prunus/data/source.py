"""Images and labels out of a folder or from the hub, by Hugging Face `datasets`."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from prunus.core.errors import Invalid, nearest
from prunus.data.dataset import Decoded, Split
from prunus.data.decode import decode

_SPLITS = ("train", "test")
_BATCH = 1000


def read_source(source: str | Path, image: str | None, label: str | None) -> Decoded:
    """The decoded data of a folder or a hub id (see `prunus.data.load`).

    Raises:
        Invalid: if it cannot be read, or is not what a data set of images and labels has to be.
    """
    with _quiet(), TemporaryDirectory(prefix="prunus-") as scratch:
        splits = _open(source, scratch)
        features = next(iter(splits.values())).features
        image = _image_column(features, image, source)  # data without images is that first of all
        if missing := [name for name in _SPLITS if name not in splits]:
            raise Invalid(
                f"data {str(source)!r} has no {missing[0]} split, only {', '.join(splits)}; "
                "allowed: data with the splits train and test"
            )
        label = _label_column(features, label, source)
        train, test = (_images(splits[name], image, f"{name} of {str(source)!r}") for name in _SPLITS)
        classes, labels = _labels([splits[name] for name in _SPLITS], label, source)
    train, test = _alike(train, test, source)
    return Decoded(classes, Split(train, labels[0]), Split(test, labels[1]))


def _open(source: str | Path, scratch: str) -> dict[str, Any]:
    from datasets import load_dataset

    try:
        if isinstance(source, Path):
            # `datasets` makes a copy of a folder's data in its own format; it is not needed after decoding
            splits = load_dataset(str(source), cache_dir=scratch)
        else:
            name, _, revision = source.partition("@")
            splits = load_dataset(name, revision=revision or None)
    except ModuleNotFoundError:
        raise
    except ConnectionError as error:
        raise Invalid(
            f"data {str(source)!r} is no folder here, and the hub cannot be reached to look for it; "
            "allowed: a folder, a built-in name, or a hub id fetched earlier"
        ) from error
    except Exception as error:  # many kinds: no such set, no files, a broken file, several configurations, …
        allowed = "a folder that holds images, as Parquet or in folders by class, in a train and a test split"
        raise Invalid(f"data {str(source)!r} cannot be read ({_reason(error)}); allowed: {allowed}") from error
    return {str(name): split for name, split in splits.items()}


def _image_column(features: Any, chosen: str | None, source: str | Path) -> str:
    found = [name for name, feature in features.items() if _holds_images(feature)]
    if chosen is not None:
        return _check_column("image", chosen, found, features, source)
    if len(found) == 1:
        return found[0]
    if found:
        raise Invalid(f"data {str(source)!r} has several columns of images; image is one of {', '.join(found)}")
    raise Invalid(f"data {str(source)!r} holds no images; its columns are {_columns(features)}")


def _holds_images(feature: Any) -> bool:
    from datasets import Image

    # Parquet without the metadata of `datasets` has an image as this plain pair
    return isinstance(feature, Image) or (isinstance(feature, dict) and feature.keys() == {"bytes", "path"})


def _label_column(features: Any, chosen: str | None, source: str | Path) -> str:
    from datasets import ClassLabel, Value

    whole = [n for n, f in features.items() if isinstance(f, Value) and f.dtype.startswith(("int", "uint"))]
    found = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if chosen is not None:
        return _check_column("label", chosen, found + whole, features, source)
    if "label" in found + whole:
        return "label"
    if len(found) == 1:
        return found[0]
    if found or whole:
        choices = ", ".join(found or whole)
        raise Invalid(f"data {str(source)!r} has no column called label; label is one of {choices}")
    raise Invalid(f"data {str(source)!r} has no class labels or whole numbers; its columns are {_columns(features)}")


def _check_column(option: str, chosen: str, allowed: list[str], features: Any, source: str | Path) -> str:
    if chosen in allowed:
        return chosen
    if chosen in features:
        what = "images" if option == "image" else "class labels or whole numbers"
        raise Invalid(f"{option} is {chosen!r}, which holds no {what} in {str(source)!r}; {nearest('', allowed)}")
    raise Invalid(f"{option} is {chosen!r}, no column of {str(source)!r}; {nearest(chosen, allowed)}")


def _images(split: Any, column: str, where: str) -> Tensor:
    from datasets import Image

    raw = split.select_columns([column])
    if isinstance(split.features[column], Image):
        raw = raw.cast_column(column, Image(decode=False))
    cells = (cell for batch in raw.iter(batch_size=_BATCH) for cell in batch[column])
    return decode(cells, len(split), where)


def _alike(train: Tensor, test: Tensor, source: str | Path) -> tuple[Tensor, Tensor]:
    """Both with the same number of channels."""
    if train.shape[2:] != test.shape[2:]:
        sizes = [f"{images.shape[3]}×{images.shape[2]}" for images in (train, test)]
        raise Invalid(
            f"the images in {str(source)!r} are {sizes[0]} pixels in train and {sizes[1]} in test; "
            "allowed: images of one size"
        )
    channels = max(train.shape[1], test.shape[1])
    if train.shape[1] != channels:
        train = train.repeat(1, channels, 1, 1)
    elif test.shape[1] != channels:
        test = test.repeat(1, channels, 1, 1)
    return train, test


def _labels(splits: list[Any], column: str, source: str | Path) -> tuple[tuple[str, ...], list[Tensor]]:
    """The class names, and the labels of each split from 0; whole numbers are numbered in ascending order."""
    values: list[list[Any]] = [list(split[column]) for split in splits]
    for name, labels in zip(_SPLITS, values, strict=True):
        if None in labels:
            raise Invalid(f"example {labels.index(None)} in {name} of {str(source)!r} has no {column}")
    names = getattr(splits[0].features[column], "names", None)
    if names is None:
        found = sorted({label for labels in values for label in labels})
        number = {label: i for i, label in enumerate(found)}
        return tuple(map(str, found)), [torch.tensor([number[label] for label in labels]) for labels in values]
    for name, labels in zip(_SPLITS, values, strict=True):
        for position, value in enumerate(labels):
            if not 0 <= value < len(names):  # -1 stands for a label that is kept secret
                raise Invalid(f"example {position} in {name} of {str(source)!r} has the {column} {value}, no class")
    return tuple(names), [torch.tensor(labels) for labels in values]


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no log lines of `datasets` and the hub client, within the block."""
    import datasets
    import huggingface_hub.utils as hub

    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    shown = [module for module in (datasets, hub) if not module.are_progress_bars_disabled()]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        _each(shown, "disable_progress_bars")
        yield
    finally:
        _each(shown, "enable_progress_bars")
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _each(modules: list[Any], call: str) -> None:
    with warnings.catch_warnings():
        # where an environment variable asks for the bars, it has its way without being told so
        warnings.filterwarnings("ignore", message="Cannot (dis|en)able progress bars")
        for module in modules:
            getattr(module, call)()


def _columns(features: Any) -> str:
    kinds = {name: getattr(feature, "dtype", None) or type(feature).__name__ for name, feature in features.items()}
    labelled = {n: type(f).__name__ if hasattr(f, "names") else kinds[n] for n, f in features.items()}
    return ", ".join(f"{name} ({kind})" for name, kind in labelled.items())


def _reason(error: BaseException) -> str:
    # the outer error of `datasets` often says only that something failed; the first cause says what
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
