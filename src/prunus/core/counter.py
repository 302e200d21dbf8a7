"""Random numbers that are a function of what they are for: a counter-based generator of our own.

Frameworks do not promise the same numbers from one version, or one device, to the next. These are the same
everywhere, for good: Philox4x32-10 (Parallel random numbers: as easy as 1, 2, 3, 2011, SC) on integers, and what is
made from its words only with operations that IEEE 754 rounds exactly. docs/artefact.md has the test vectors.

A stream is named by a seed (64 bits), a purpose and a layer (32 bits each). Its words are numbered from 0, and no
word depends on how many are drawn. Word i is word i mod 4 of block ⌊i / 4⌋; the block with number b is Philox of the
counter (b mod 2³², ⌊b / 2³²⌋, layer, purpose) under the key (seed mod 2³², ⌊seed / 2³²⌋).
"""

from collections.abc import Callable
from operator import index

import numpy as np
from numpy.typing import NDArray

from prunus.core.errors import Invalid
from prunus.core.quantile import normal_quantile

#: The purpose of the streams that draw frozen weights.
FROZEN_WEIGHTS = 0

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
#: Words in one piece of work: few enough that all that is computed from them stays in the processor's cache.
_PIECE = 1 << 14


def words(seed: int, purpose: int, layer: int, count: int) -> NDArray[np.uint32]:
    """The first `count` words of a stream.

    Args:
        seed: from 0 to 2⁶⁴ − 1.
        purpose: what the stream is for, from 0 to 2³² − 1.
        layer: which of the streams for that, from 0 to 2³² − 1.
        count: how many words.

    Raises:
        Invalid: if a number is out of its range.
    """
    return _filled(seed, purpose, layer, count, np.dtype(np.uint32), lambda piece: piece)


def signs(seed: int, purpose: int, layer: int, count: int) -> NDArray[np.int8]:
    """`count` random signs: number i is −1 where bit i mod 32 (0 the lowest) of word ⌊i / 32⌋ is set, else 1."""
    packed = words(seed, purpose, layer, -(-count // 32) if count > 0 else count)
    bits = np.unpackbits(packed.astype("<u4").view(np.uint8), count=count, bitorder="little")
    return 1 - 2 * bits.astype(np.int8)


def uniforms(seed: int, purpose: int, layer: int, count: int) -> NDArray[np.float64]:
    """`count` numbers from (0, 1), exact: number i is (word i + ½) / 2³², so that 0 and 1 never come."""
    return _filled(seed, purpose, layer, count, np.dtype(np.float64), _uniform)


def normals(seed: int, purpose: int, layer: int, count: int) -> NDArray[np.float64]:
    """`count` numbers of mean 0 and variance 1: number i is the normal quantile of uniform i, within ±6.34."""
    return _filled(seed, purpose, layer, count, np.dtype(np.float64), lambda w: normal_quantile(_uniform(w)))


def _uniform(piece: NDArray[np.uint32]) -> NDArray[np.float64]:
    return (piece.astype(np.float64) + 0.5) * 2.0**-32  # 33 bits, so both operations are exact


def _filled(
    seed: int,
    purpose: int,
    layer: int,
    count: int,
    kind: np.dtype,
    made_from: Callable[[NDArray[np.uint32]], NDArray],
) -> NDArray:
    key, purpose, layer = _check("seed", seed, 64), _check("purpose", purpose, 32), _check("layer", layer, 32)
    made = np.empty(_check("count", count, 62), kind)
    for start in range(0, len(made), _PIECE):
        into = made[start : start + _PIECE]
        first, blocks = start // 4, -(-len(into) // 4)
        counters = np.arange(first, first + blocks, dtype=np.uint64)
        block = philox((counters & _LOW, counters >> _HALF, layer, purpose), (key & 0xFFFFFFFF, key >> 32))
        into[:] = made_from(np.stack(block, axis=1).reshape(-1)[: len(into)])
    return made


def philox(counter: tuple[NDArray[np.uint64] | int, ...], key: tuple[int, int]) -> list[NDArray[np.uint32]]:
    """Philox4x32-10 of many counters under one key.

    Args:
        counter: four words of 32 bits, each one integer or an array of uint64.
        key: two words of 32 bits.

    Returns:
        The four words of each counter's block.
    """
    a, b, c, d = (np.asarray(word, np.uint64) for word in counter)
    for step in range(_ROUNDS):
        first, second = (np.uint64((k + step * s) & 0xFFFFFFFF) for k, s in zip(key, _KEY_STEPS, strict=True))
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]  # 32 by 32 bits: never more than 64
        a, b, c, d = (right >> _HALF) ^ b ^ first, right & _LOW, (left >> _HALF) ^ d ^ second, left & _LOW
    return [word.astype(np.uint32) for word in np.broadcast_arrays(a, b, c, d)]


def _check(name: str, value: int, bits: int) -> int:
    try:
        number = -1 if isinstance(value, bool) else index(value)
    except TypeError:
        number = -1
    if not 0 <= number < 1 << bits:
        raise Invalid(f"{name} is {value!r}; allowed: a whole number from 0 to 2^{bits} − 1")
    return number
