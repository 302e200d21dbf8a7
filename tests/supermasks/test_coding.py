import re
from math import comb, log2
from zlib import crc32

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prunus.core.errors import Invalid
from prunus.supermasks.coding import decode, encode, entropy
from vectors import VECTORS

WORD = 1 << 32


def random_mask(count, kept, seed=0):
    mask = np.zeros(count, bool)
    mask[np.random.default_rng(seed).permutation(count)[:kept]] = True
    return mask


def share(count, kept):
    return min(max(((kept << 25) + count) // (2 * count), 1), (1 << 24) - 1)


def slow_decode(data, count, kept):
    """The bits as docs/artefact.md tells how to decode them; None where they are faulty."""
    words = [int.from_bytes(data[i : i + 4], "little") for i in range(4, len(data), 4)]
    ones = share(count, kept)
    zeros = (1 << 24) - ones
    bits, x = [], 0

    def fill(x):
        return x * WORD + words.pop() if x < WORD and words else x

    x = fill(fill(x))
    for _ in range(count):
        high, r = divmod(x, 1 << 24)
        bits.append(r >= zeros)
        x = fill(ones * high + r - zeros if bits[-1] else zeros * high + r)
    return bits if not words and x == 0 and sum(bits) == kept else None


@st.composite
def masks(draw):
    count = draw(st.integers(0, 400))
    return np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)


@settings(max_examples=200, deadline=None)
@given(masks())
def test_decoding_gives_the_mask_back(mask):
    assert np.array_equal(decode(encode(mask), len(mask), int(mask.sum())), mask)


@settings(max_examples=100, deadline=None)
@given(masks())
def test_the_bytes_are_those_of_the_page(mask):
    data, kept = encode(mask), int(mask.sum())
    if kept in (0, len(mask)):
        assert data == b""
    else:
        assert data[:4] == crc32(data[4:]).to_bytes(4, "little")
        assert slow_decode(data, len(mask), kept) == mask.tolist()


def test_the_vector_of_the_page():
    known = VECTORS["mask"]
    mask = np.array([entry == "1" for entry in known["entries"]])
    assert encode(mask).hex() == known["coded"]
    assert np.array_equal(decode(bytes.fromhex(known["coded"]), len(mask), int(mask.sum())), mask)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 10**6), st.integers(1, 10**6), st.integers(0, 2**32))
@example(10**6, 1, 0)
@example(10**6, 10**6 - 1, 0)
def test_the_library_takes_the_probability_as_it_is(count, kept, seed):
    # one bit for which the state shows the share: after it, a one from state x is M ⌊x / 2²⁴⌋ + r − Z
    kept = min(kept, count - 1)
    mask = np.zeros(count, bool)
    mask[-64:] = np.random.default_rng(seed).random(min(64, count)) < 0.5
    from constriction import stream

    model = stream.model.Bernoulli(share(count, kept) / (1 << 24), perfect=True)
    coder = stream.stack.AnsCoder()
    coder.encode_reverse(mask[-64:].astype(np.int32), model)
    x, words, ones = 0, [], share(count, kept)
    for bit in mask[-64:][::-1].tolist():
        size, left = (ones, (1 << 24) - ones) if bit else ((1 << 24) - ones, 0)
        if x >= size << 40:
            words.append(x % WORD)
            x //= WORD
        x = (x // size << 24) + left + x % size
    while x:
        words.append(x % WORD)
        x //= WORD
    assert coder.get_compressed().tolist() == words


COUNTS = [1, 2, 3, 10, 64, 100, 999, 4096, 30_000, 266_200]


@pytest.mark.parametrize("count", COUNTS)
def test_the_size_stays_near_the_bound(count):
    counts = {0, 1, 2, count // 100, count // 10, count // 3, count // 2, count - count // 10, count - 1, count}
    for kept in sorted(k for k in counts if k <= count):
        for seed in range(2):
            data = encode(random_mask(count, kept, seed))
            assert len(data) <= entropy(count, kept) / 8 + 16


@pytest.mark.parametrize("density", [0.5, 0.1, 0.01])
def test_the_mask_of_lenet_takes_the_bound_and_a_few_bytes(density):
    count = 266_200
    kept = round(density * count)
    mask = random_mask(count, kept)
    data = encode(mask)
    bound = -count * (density * log2(density) + (1 - density) * log2(1 - density)) / 8
    assert entropy(count, kept) / 8 == pytest.approx(bound, rel=1e-12)
    assert len(data) <= bound + 16  # with the row of its layer that is less than 64
    assert np.array_equal(decode(data, count, kept), mask)


def test_more_entries_than_one_piece_of_work():
    for kept in (1, 1234, 3_000_000):
        mask = random_mask(3_200_000, kept)
        data = encode(mask)
        assert len(data) <= entropy(len(mask), kept) / 8 + 16
        assert np.array_equal(decode(data, len(mask), kept), mask)


@given(st.integers(1, 300), st.data())
def test_the_entropy_is_what_a_count_leaves_open(count, data):
    kept = data.draw(st.integers(0, count))
    possible = log2(comb(count, kept))
    assert possible - 1e-6 <= entropy(count, kept) <= possible + log2(count + 1) + 1e-6


def test_nothing_is_coded_where_nothing_is_open():
    for mask in (np.zeros(100, bool), np.ones(100, bool), np.zeros(0, bool)):
        assert encode(mask) == b""
    assert (entropy(100, 0), entropy(100, 100), entropy(0, 0)) == (0, 0, 0)


@settings(max_examples=150, deadline=None)
@given(masks().filter(lambda m: 0 < m.sum() < len(m)), st.data())
def test_bytes_that_are_cut_off_or_altered_are_refused(mask, data):
    coded, kept = encode(mask), int(mask.sum())
    kind = data.draw(st.sampled_from(["cut off", "longer", "one bit"]))
    if kind == "cut off":
        other = coded[: data.draw(st.integers(0, len(coded) - 1))]
    elif kind == "longer":
        other = coded + data.draw(st.binary(min_size=1, max_size=9))
    else:
        place = data.draw(st.integers(0, 8 * len(coded) - 1))
        other = bytes(b ^ (1 << place % 8) * (i == place // 8) for i, b in enumerate(coded))
    with pytest.raises(Invalid, match="are cut off or altered"):
        decode(other, len(mask), kept)


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 300), st.data(), st.lists(st.integers(0, WORD - 1), max_size=5))
def test_words_that_hold_another_count_are_refused(count, data, words):
    kept = data.draw(st.integers(1, count - 1))
    coded = b"".join(word.to_bytes(4, "little") for word in words)
    whole = crc32(coded).to_bytes(4, "little") + coded
    faulty = bool(words) and words[-1] == 0  # a state never ends in a word of zeros
    expected = None if faulty else slow_decode(whole, count, kept)
    if expected is None:
        with pytest.raises(Invalid, match=f"do not hold the {kept} ones of {count} entries"):
            decode(whole, count, kept)
    else:
        assert decode(whole, count, kept).tolist() == expected


@pytest.mark.parametrize(
    ("data", "count", "kept", "message"),
    [
        (b"\0\0\0\0", 10, 0, "a mask with 0 of 10 entries has 4 coded bytes; allowed: none"),
        (b"\0", 10, 10, "a mask with 10 of 10 entries has 1 coded bytes; allowed: none"),
        (b"", 10, 5, "the coded bits of a mask with 5 of 10 entries are cut off or altered"),
        (b"", 10, 11, "the count of a coded mask is 11 of 10 entries; allowed: from 0 to all of them"),
        (b"", 10, -1, "the count of a coded mask is -1 of 10 entries"),
    ],
)
def test_a_count_that_does_not_fit_is_named(data, count, kept, message):
    with pytest.raises(Invalid, match=re.escape(message)):
        decode(data, count, kept)


def test_another_count_of_ones_is_refused():
    data = encode(random_mask(1000, 300))
    for kept in (1, 299, 301, 999):
        with pytest.raises(Invalid, match=f"do not hold the {kept} ones"):
            decode(data, 1000, kept)
