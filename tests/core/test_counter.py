import re
from math import copysign, frexp, sqrt
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from prunus.core.counter import normals, philox, signs, uniforms, words
from prunus.core.errors import Invalid
from prunus.core.quantile import logarithm, normal_quantile
from vectors import PAGE, STREAM, VECTORS

WORD = 1 << 32


def block(counter, key):
    """Philox4x32-10 as docs/artefact.md writes it, with Python's integers."""
    (a, b, c, d), (k, l) = counter, key
    for _ in range(10):
        p, q = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (q // WORD) ^ b ^ k, q % WORD, (p // WORD) ^ d ^ l, p % WORD
        k, l = (k + 0x9E3779B9) % WORD, (l + 0xBB67AE85) % WORD
    return a, b, c, d


def word(seed, purpose, layer, i):
    return block((i // 4 % WORD, i // 4 // WORD, layer, purpose), (seed % WORD, seed // WORD))[i % 4]


def horner(coefficients, x):
    value = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def coefficients():
    """The columns A, B, C and D of the table in docs/artefact.md."""
    rows = [r.split("|")[2:6] for r in re.findall(r"^\| [0-5] \|.*$", PAGE, re.MULTILINE)]
    return [[float(cell) for cell in column if cell.strip()] for column in zip(*rows, strict=True)]


def quantile(i):
    """The normal of one word as docs/artefact.md writes it, with Python's floats."""
    a, b, c, d = coefficients()
    distance = (i + 0.5) / WORD - 0.5
    if abs(distance) <= 0.425:
        return distance * (horner(a, distance * distance) / horner(b, distance * distance))
    m, e = frexp(0.5 - abs(distance))
    if m < 0.7071067811865476:
        m, e = m + m, e - 1
    t = (m - 1) / (m + 1)
    s = sqrt(-(e * 0.6931471805599453 + (t + t) * horner([1 / (2 * k + 1) for k in range(12)], t * t)))
    return copysign(horner(c, s) / horner(d, s), distance)


def from_words(integers):
    return normal_quantile((np.asarray(integers, np.float64) + 0.5) / WORD)


def as_integers(text):
    return tuple(int(part, 16) for part in text.split())


@pytest.mark.parametrize("known", VECTORS["philox"], ids=lambda known: known["counter"][:8])
def test_known_answers(known):
    counter, key = as_integers(known["counter"]), as_integers(known["key"])
    assert tuple(map(int, philox(counter, key))) == as_integers(known["block"]) == block(counter, key)


def test_the_published_answers_are_on_the_page():
    # the vectors that come with the authors' own code
    assert [known["block"] for known in VECTORS["philox"]] == [
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ]


def test_the_vectors_of_the_page():
    expected = as_integers(VECTORS["words"])
    assert tuple(words(*STREAM, len(expected)).tolist()) == expected
    drawn = signs(*STREAM, len(VECTORS["signs"]))
    assert "".join("+" if sign > 0 else "-" for sign in drawn) == VECTORS["signs"]
    assert [u.hex() for u in uniforms(*STREAM, 4).tolist()] == VECTORS["uniforms"]
    assert [z.hex() for z in normals(*STREAM, 4).tolist()] == VECTORS["normals"]
    edges = VECTORS["quantiles"]
    assert [z.hex() for z in from_words([int(w, 16) for w in edges]).tolist()] == list(edges.values())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(1, 70))
def test_words_and_signs_are_those_of_the_slow_generator(seed, purpose, layer, count):
    slow = [word(seed, purpose, layer, i) for i in range(count)]
    assert words(seed, purpose, layer, count).tolist() == slow
    bits = [slow[i // 32] >> i % 32 & 1 for i in range(count)]
    assert signs(seed, purpose, layer, count).tolist() == [1 - 2 * bit for bit in bits]


@pytest.mark.parametrize("draw", [words, signs, uniforms, normals])
def test_no_number_depends_on_how_many_are_drawn(draw):
    # counts around the size of a piece of work and of a block
    whole = draw(5, 0, 2, 40_003)
    for count in (0, 1, 3, 4, 16_383, 16_384, 16_385, 32_769):
        assert np.array_equal(draw(5, 0, 2, count), whole[:count])


def test_streams_differ():
    streams = [words(*name, 8).tobytes() for name in ((0, 0, 0), (1, 0, 0), (1 << 32, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert len(set(streams)) == 5


def test_uniforms_are_those_of_the_words():
    slow = [(word(9, 1, 2, i) + 0.5) / WORD for i in range(100)]
    assert uniforms(9, 1, 2, 100).tolist() == slow
    assert 0 < min(slow) < max(slow) < 1


def test_far_words_are_those_of_the_slow_generator():
    drawn = words(3, 0, 1, 70_000)
    for i in (16_383, 16_384, 16_385, 65_535, 69_999):
        assert drawn[i] == word(3, 0, 1, i)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, WORD - 1))
def test_a_normal_has_the_bits_of_the_page_s_formula(i):
    assert from_words([i])[0].hex() == quantile(i).hex()


def test_normals_are_the_quantiles_of_a_normal():
    spread = np.linspace(0, WORD - 1, 200_001).astype(np.int64)
    ends = np.arange(20_000)
    integers = np.concatenate([spread, ends, WORD - 1 - ends])
    found, exact = from_words(integers), ndtri((integers + 0.5) / WORD)
    assert np.abs(found - exact).max() < 1e-9
    assert found.max() == pytest.approx(NormalDist().inv_cdf((WORD - 0.5) / WORD), abs=1e-9)


def test_normals_are_symmetric_to_the_bit():
    integers = np.concatenate([np.arange(1000), np.linspace(0, WORD // 2 - 1, 10_000).astype(np.int64)])
    assert np.array_equal(from_words(integers), -from_words(WORD - 1 - integers))


def test_normals_rise_with_their_words():
    near = [np.arange(c - 500, c + 500) for c in (500, int(0.075 * WORD), WORD // 2, int(0.925 * WORD), WORD - 500)]
    for integers in [*near, np.linspace(0, WORD - 1, 100_001).astype(np.int64)]:
        # where the two fractions meet they are within 1e-10 of each other
        assert (np.diff(from_words(integers)) > -2e-10).all()


def test_the_logarithm_is_exact_to_a_few_units_in_the_last_place():
    x = np.concatenate([2.0 ** -np.arange(60), np.linspace(1e-9, 1, 10_001)[:-1]])
    exact = np.log(x)
    assert (np.abs(logarithm(x) - exact) <= 4 * np.spacing(np.abs(exact))).all()


def test_moments():
    count = 1 << 18
    for draw, variance in ((signs, 1.0), (normals, 1.0), (uniforms, 1 / 12)):
        drawn = draw(11, 0, 0, count).astype(np.float64)
        centre = 0.5 if draw is uniforms else 0.0
        assert abs(drawn.mean() - centre) < 5 * (variance / count) ** 0.5
        assert np.square(drawn - centre).mean() == pytest.approx(variance, rel=5 * (2 / count) ** 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, 0, 1), "seed is -1; allowed: a whole number from 0 to 2^64 − 1"),
        ((2**64, 0, 0, 1), "seed is 18446744073709551616"),
        ((True, 0, 0, 1), "seed is True"),
        ((0.5, 0, 0, 1), "seed is 0.5"),
        ((0, 2**32, 0, 1), "purpose is 4294967296; allowed: a whole number from 0 to 2^32 − 1"),
        ((0, 0, -1, 1), "layer is -1"),
        ((0, 0, 0, -1), "count is -1"),
    ],
)
@pytest.mark.parametrize("draw", [words, signs, uniforms, normals])
def test_a_number_out_of_range_is_named(draw, arguments, message):
    with pytest.raises(Invalid, match=re.escape(message)):
        draw(*arguments)
