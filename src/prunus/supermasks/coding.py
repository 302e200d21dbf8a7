"""A mask in as few bits as its count allows: entropy coding with the exact number of ones known on both sides.

With K ones among n entries the bound is log₂ of "n over K", at most n · H(K / n) bits. The coder is the kept library
constriction's: asymmetric numeral systems (Asymmetric numeral systems, 2013, arXiv 1311.2540) on a state of 64 bits,
words of 32 and probabilities of 24.

Both sides compute the probability of a one with integers, M / 2²⁴ with M = ⌊K · 2²⁴ / n + ½⌋, at least 1 and at most
2²⁴ − 1. Such a number and its complement are exact as floats, and so is what constriction makes of them with
`perfect=True`: no rounding has a say. For the bytes see docs/artefact.md.
"""

from importlib import import_module
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from prunus.core.errors import Invalid

#: Entries that are handed to the coder at once, which it takes as integers of four bytes.
_PIECE = 1 << 20
_PRECISION = 24
_CHECK = 4  # bytes of the check in front


def encode(mask: NDArray[np.bool_]) -> bytes:
    """A mask as bytes: nothing where it is all ones or all zeros, else a check of four bytes and the coded entries.

    Args:
        mask: bool entries, in one dimension.

    Returns:
        At most n · H(K / n) / 8 + 16 bytes for n entries with K ones.
    """
    kept = int(np.count_nonzero(mask))
    if kept in (0, len(mask)):
        return b""
    coder, model = _coder(), _model(kept, len(mask))
    for start in reversed(range(0, len(mask), _PIECE)):  # what goes in last comes out first
        coder.encode_reverse(mask[start : start + _PIECE].astype(np.int32), model)
    coded = coder.get_compressed().astype("<u4").tobytes()
    return _checked(coded) + coded


def decode(data: bytes, count: int, kept: int) -> NDArray[np.bool_]:
    """The inverse of `encode`.

    Args:
        data: what `encode` gave.
        count: how many entries there are.
        kept: how many of them are ones.

    Raises:
        Invalid: if the bytes were cut off or altered, or do not hold exactly so many ones.
    """
    if not 0 <= kept <= count:
        raise Invalid(f"the count of a coded mask is {kept} of {count} entries; allowed: from 0 to all of them")
    if kept in (0, count):
        if data:
            raise Invalid(f"a mask with {kept} of {count} entries has {len(data)} coded bytes; allowed: none")
        return np.full(count, kept > 0)
    coded = data[_CHECK:]
    if len(coded) % 4 or data[:_CHECK] != _checked(coded):
        raise Invalid(f"the coded bits of a mask with {kept} of {count} entries are cut off or altered")
    mask = _decoded(coded, count, kept)
    if mask is None or np.count_nonzero(mask) != kept:
        raise Invalid(f"the coded bits of a mask do not hold the {kept} ones of {count} entries that they should")
    return mask


def entropy(count: int, kept: int) -> float:
    """The bound n · H(K / n) in bits for `kept` = K ones of `count` = n entries."""
    shares = np.array([kept, count - kept], np.float64)
    shares = shares[shares > 0]
    return float((shares * np.log2(count / shares)).sum())


def _decoded(coded: bytes, count: int, kept: int) -> NDArray[np.bool_] | None:
    mask = np.empty(count, np.bool_)
    try:
        coder = _coder(np.frombuffer(coded, "<u4").astype(np.uint32))
    except ValueError:  # these bytes can be nothing that the coder gave
        return None
    model = _model(kept, count)
    for start in range(0, count, _PIECE):
        mask[start : start + _PIECE] = coder.decode(model, min(_PIECE, count - start))
    return mask if coder.is_empty() else None


def _coder(*words: NDArray[np.uint32]) -> Any:
    return _library().stack.AnsCoder(*words)


def _model(kept: int, count: int) -> Any:
    whole = 1 << _PRECISION
    share = ((kept << (_PRECISION + 1)) + count) // (2 * count)
    return _library().model.Bernoulli(min(max(share, 1), whole - 1) / whole, perfect=True)


def _library() -> Any:
    return import_module("constriction").stream  # only where it is used


def _checked(coded: bytes) -> bytes:
    return crc32(coded).to_bytes(_CHECK, "little")
