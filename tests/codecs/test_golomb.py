"""Golomb codes: what is written is what a slow coder writes, bit by bit, and comes back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from photon.codecs import golomb


def slow(places: list[int], among: int) -> bytes:
    """The streams by the textbook, as text of zeros and ones."""
    if not places:
        return b""
    m = max(1, round(math.log(2) * among / len(places)))
    width = int(math.log2(m))
    spare = 2 ** (width + 1) - m
    fixed, last, unary, before = "", "", "", -1
    for place in places:
        quotient, rest = divmod(place - before - 1, m)
        word = f"{rest:0{width}b}" if rest < spare else f"{rest + spare:0{width + 1}b}"
        fixed, last = fixed + word[:width], last + word[width:]
        if width == 0:
            fixed, last = "", last[: len(last) - (rest < spare)]
        unary, before = unary + "0" * quotient + "1", place
    streams = [each + "0" * (-len(each) % 8) for each in (fixed, last, unary)]
    return b"".join(int(bits, 2).to_bytes(len(bits) // 8, "big") for bits in streams if bits)


def drawn(rng: np.random.Generator, count: int, among: int) -> np.ndarray:
    return np.sort(rng.choice(among, count, replace=False)).astype(np.int64)


@pytest.mark.parametrize(
    ("count", "among"),
    [(0, 9), (1, 1), (1, 1000), (5, 5), (7, 9), (64, 4096), (300, 999), (40, 10**6), (3, 10**9)],
)
def test_codes_are_those_of_the_textbook(count, among):
    for seed in range(20):
        places = drawn(np.random.default_rng(seed), count, min(among, 10**6))
        codes = golomb.write(places, among)
        assert codes.tobytes() == slow(places.tolist(), among)
        found = golomb.read(codes, count, among)
        assert found is not None
        np.testing.assert_array_equal(found, places)


def test_the_bits_are_those_of_the_formula():
    places = drawn(np.random.default_rng(0), 1 << 14, 1 << 20)
    entropy = (1 << 20) * (-1 / 64 * math.log2(1 / 64) - 63 / 64 * math.log2(63 / 64))
    size = len(golomb.write(places, 1 << 20))
    assert 8 * size == pytest.approx(entropy, rel=0.006)
    assert size == pytest.approx(golomb.expected_bytes(1 << 14, 1 << 20), rel=0.003)


@pytest.mark.parametrize("among", [1, 2, 3, 7, 12, 64, 333])
def test_no_places_take_more_than_the_most(among):
    rng = np.random.default_rng(among)
    for count in range(among + 1):
        ends = np.arange(among - count, among, dtype=np.int64)
        for places in (drawn(rng, count, among), ends, np.arange(count, dtype=np.int64)):
            size = len(golomb.write(places, among))
            assert all(size <= golomb.most_bytes(most, among) for most in range(count, among + 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda codes: codes[:-1],
        lambda codes: np.append(codes, np.uint8(0)),
        lambda codes: np.append(codes, np.uint8(1)),
        lambda codes: codes[:3],
        lambda codes: codes[:0],
        lambda codes: np.append(codes[:-1], np.uint8(0)),
    ],
)
def test_codes_of_another_length_are_refused(change):
    codes = golomb.write(drawn(np.random.default_rng(1), 64, 4096), 4096)
    assert golomb.read(change(codes), 64, 4096) is None


def test_a_place_beyond_the_end_is_refused():
    codes = golomb.write(np.array([1, 5, 4095]), 4096)
    m = golomb.divisor(3, 4096)
    assert m == golomb.divisor(3, 4095)
    assert golomb.read(codes, 3, 4096) is not None
    assert golomb.read(codes, 3, 4095) is None
