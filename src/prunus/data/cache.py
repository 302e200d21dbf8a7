"""Decoded data sets on disk, so that images are decoded once."""

import hashlib
import json
import os
import warnings
from pathlib import Path

from prunus.core.errors import Invalid
from prunus.core.files import read_tensors, write_tensors
from prunus.data.dataset import Decoded, Split

#: Part of every key: a new number where decoding changes what comes out.
VERSION = 1


def folder() -> Path:
    """Where decoded data sets are kept: `PRUNUS_CACHE`, by default `~/.cache/prunus`."""
    return Path(os.environ.get("PRUNUS_CACHE") or "~/.cache/prunus").expanduser()


def file_for(source: str | Path, *options: str | None) -> Path:
    """The cache file of a hub id, or of what a folder holds now (names and contents of its files)."""
    key = hashlib.sha256(json.dumps([VERSION, options]).encode())
    if isinstance(source, Path):
        # the folder's own name is left out: a copy of the folder is the same data
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            name = file.relative_to(source).as_posix()
            with file.open("rb") as opened:
                key.update(f"{len(name)} {name} {hashlib.file_digest(opened, 'sha256').hexdigest()}".encode())
    else:
        key.update(f"hub {source}".encode())
    return folder() / f"data-{key.hexdigest()[:32]}.safetensors"


def fetch(file: Path) -> Decoded | None:
    """The data set kept in `file`; `None` where there is none, or the file is damaged."""
    try:
        tensors, metadata = read_tensors(file)
        splits = [Split(tensors[f"{part}.images"], tensors[f"{part}.labels"]) for part in ("train", "test")]
        return Decoded(tuple(json.loads(metadata["classes"])), *splits)
    except (Invalid, KeyError):
        return None


def store(file: Path, decoded: Decoded) -> None:
    """Keep a data set in `file`, complete or not at all; where that fails, a warning says so."""
    tensors = {
        f"{part}.{what}": getattr(getattr(decoded, part), what)
        for part in ("train", "test")
        for what in ("images", "labels")
    }
    try:
        write_tensors(file, tensors, {"classes": json.dumps(decoded.classes)})
    except OSError as error:
        warnings.warn(f"decoded data is not kept in {file.parent}: {error}", stacklevel=2)
