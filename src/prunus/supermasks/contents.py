"""`Artefact`: what is in the file of a supermask, and its form on disk (docs/artefact.md specifies it)."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from prunus.core.errors import Invalid
from prunus.core.files import read_tensors, write_tensors
from prunus.models.reference import Reference
from prunus.supermasks.coded import CodedLayer
from prunus.supermasks.weights import Origin

FORMAT = "prunus supermask 1"

#: The types that frozen weights may have.
TYPES = ("float32", "float16", "bfloat16", "float64")

#: No table of layers is longer than this many bytes; a longer one would be a trap for whoever unpacks it.
_LONGEST_TABLE = 1 << 26


@dataclass(frozen=True, eq=False)
class Artefact:
    """A supermask as it lies in a file: everything but weights that a seed, or a backbone, gives.

    Attributes:
        method: name and options of the method that found it.
        reference: what the network was built from; None where `build` did not make it.
        origin: what its frozen weights are drawn from; None where they are those of a backbone.
        checksum: SHA-256 of the frozen weights, in hexadecimal digits.
        dtype: of the frozen weights, such as `"float32"`.
        layers: the coded masks, in the order of the network's parameters.
        state: what else the network holds, by name in its state_dict.
        left_out: names of the state_dict whose values follow from reference and origin.
        values: how many numbers the whole state_dict has.
        size: bytes of the file; 0 before there is one.
    """

    method: Mapping[str, Any]
    reference: Reference | None
    origin: Origin | None
    checksum: str
    dtype: str
    layers: Sequence[CodedLayer]
    state: Mapping[str, Tensor]
    left_out: Sequence[str]
    values: int
    size: int = 0

    @property
    def kept(self) -> int:
        """How many weights are kept."""
        return sum(layer.kept for layer in self.layers)

    @property
    def count(self) -> int:
        """How many weights are masked."""
        return sum(layer.count for layer in self.layers)

    @property
    def coded(self) -> int:
        """Bytes of all coded masks."""
        return sum(layer.coded for layer in self.layers)

    @property
    def bound(self) -> float:
        """Bytes of the layers' bounds together."""
        return sum(layer.bound for layer in self.layers)

    @property
    def dense(self) -> int:
        """Bytes of the numbers of a dense checkpoint in float32."""
        return 4 * self.values

    def write(self, path: str | Path) -> None:
        """Write the file, complete or not at all."""
        rows = [[r.name, r.shape, r.kept, r.turned, r.scale, r.signs, len(r.mask), len(r.turns)] for r in self.layers]
        table = zlib.compress(json.dumps([rows, list(self.left_out)], separators=(",", ":")).encode(), 9)
        tensors = {
            "layers": _bytes(table),
            "masks": _bytes(b"".join(row.mask + row.turns for row in self.layers)),
            **{f"state/{name}": value for name, value in self.state.items()},
        }
        metadata = {
            "format": FORMAT,
            "method": json.dumps(self.method, default=str),
            "reference": json.dumps(self.reference and asdict(self.reference)),
            "origin": json.dumps(self.origin and asdict(self.origin)),
            "weights": self.checksum,
            "dtype": self.dtype,
            "values": str(self.values),
        }
        write_tensors(Path(path), tensors, metadata)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a file that `write` wrote.

        Raises:
            Invalid: if there is no such file, or it is cut short, altered, or no supermask.
        """
        path = Path(path)
        tensors, metadata = read_tensors(path)
        if metadata.get("format") != FORMAT:
            raise Invalid(f"{path}: not a supermask (its format is {metadata.get('format')!r}, not {FORMAT!r})")
        try:
            if metadata["dtype"] not in TYPES:
                raise Invalid(f"dtype is {metadata['dtype']!r}; allowed: {', '.join(TYPES)}")
            layers, left_out = _table(tensors["layers"], tensors["masks"])
            method = json.loads(metadata["method"])
            reference, origin = json.loads(metadata["reference"]), json.loads(metadata["origin"])
            return cls(
                method={"name": str(method["name"]), "options": dict(method["options"])},
                reference=Reference.of(reference) if reference else None,
                origin=Origin(**origin) if origin else None,
                checksum=metadata["weights"],
                dtype=metadata["dtype"],
                layers=layers,
                state={n.removeprefix("state/"): t for n, t in tensors.items() if n.startswith("state/")},
                left_out=left_out,
                values=int(metadata["values"]),
                size=path.stat().st_size,
            )
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            what = str(error) if isinstance(error, Invalid) else f"{type(error).__name__}: {error}"
            raise Invalid(f"{path}: not a whole supermask ({what})") from error


def _bytes(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def _table(packed: Tensor, masks: Tensor) -> tuple[list[CodedLayer], list[str]]:
    reader = zlib.decompressobj()
    table = reader.decompress(packed.numpy().tobytes(), _LONGEST_TABLE)
    if not reader.eof:
        raise Invalid(f"the table of layers is cut off, or longer than {_LONGEST_TABLE:,} bytes")
    rows, left_out = json.loads(table)
    coded = masks.numpy().tobytes()
    layers, start = [], 0
    for name, shape, kept, turned, scale, signs, *lengths in rows:
        middle, end = start + int(lengths[0]), start + int(lengths[0]) + int(lengths[1])
        if not start <= middle <= end <= len(coded):
            raise Invalid(f"the coded bits of {name} are cut off")
        counts = tuple(map(int, shape)), int(kept), int(turned)
        row = CodedLayer(str(name), *counts, float(scale), bool(signs), coded[start:middle], coded[middle:end])
        if min(row.shape, default=1) < 0 or not 0 <= row.turned <= row.kept <= row.count:
            raise Invalid(f"{name} of shape {row.shape} keeps {row.kept} entries and turns {row.turned}")
        if not isfinite(row.scale):
            raise Invalid(f"the scale of {name} is {row.scale}")
        layers.append(row)
        start = end
    if start != len(coded):
        raise Invalid(f"there are {len(coded) - start} coded bytes too many")
    return layers, [str(name) for name in left_out]
