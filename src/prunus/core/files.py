"""Writes that are complete or absent, and safetensors files that are what they say."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from errno import EIO
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp, mkstemp
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from prunus.core.errors import Invalid

CHECKSUM = "checksum"


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`: after a crash or a full disk there is the old file or the new one, never a part."""
    _replace(path, lambda temporary: temporary.write_bytes(data))


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, complete or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as JSON, complete or not at all; floats read back bit for bit."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with `metadata` and a checksum over both, complete or not at all."""
    # clones: safetensors refuses tensors that share memory, as tied weights do
    own = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    signed = {**metadata, CHECKSUM: _checksum(own, metadata)}

    def write(temporary: Path) -> None:
        save_file(own, temporary, metadata=signed)
        _put_in_order(temporary)

    _replace(path, write)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file that `write_tensors` wrote.

    Raises:
        Invalid: if there is no such file, or it is no safetensors file, cut short, or altered.
    """
    if not path.is_file():
        raise Invalid(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (safetensors.SafetensorError, ValueError, OSError, MemoryError) as error:
        raise Invalid(f"{path}: cut short or not a safetensors file ({_first_line(error)})") from error
    claimed = metadata.pop(CHECKSUM, None)
    if claimed is None:
        raise Invalid(f"{path}: not written by Prunus (its metadata has no {CHECKSUM!r})")
    if claimed != _checksum(tensors, metadata):
        raise Invalid(f"{path}: altered since it was written (the checksum differs)")
    return tensors, metadata


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block ends well, and goes when it does not.

    Where another process has made `path` meanwhile, its folder stays and this one goes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for file in temporary.rglob("*"):
            _sync(file)
        _sync(temporary)
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
        _sync(path.parent)
    finally:
        rmtree(temporary, ignore_errors=True)


def _put_in_order(path: Path) -> None:
    """Sort a file's metadata, which safetensors writes in another order each time: equal files are equal bytes."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        metadata = dict(sorted(header.pop("__metadata__").items()))
        text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:  # else it is as good as it was
            file.seek(8)
            file.write(text.ljust(size))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except safetensors.SafetensorError as error:
        raise OSError(EIO, _first_line(error), str(path)) from error
    except OSError as error:
        raise OSError(error.errno or EIO, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
