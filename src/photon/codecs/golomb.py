"""Ascending places among many, as bits: Golomb codes of the gaps between them.

A gap `g` is `g // m` in unary and `g % m` in truncated binary (Golomb 1966). At the best `m` that
takes under 0.5 % more than the entropy of places that are chosen with equal chance. `m` follows
from the number of places and of what they are among, so that all quotients together are bounded.

Each part of the codes has its own stream, so that neither way is a loop: the remainders' bits that
all have, the last bits that the larger have, and the quotients, each as zeros up to a one.
"""

from __future__ import annotations

import math

import numpy as np

Bytes = np.ndarray
"""A row of uint8."""


def divisor(count: int, among: int) -> int:
    """The `m` for `count` places: half of the gaps are smaller."""
    return max(1, round(math.log(2) * among / count)) if count else 1


def most_bytes(count: int, among: int) -> int:
    """Bytes that suffice for any number of places up to `count`.

    A remainder takes under log2(m) + 1 bits, a quotient's end one. As `m` is rounded by a third at
    the most, all quotients are under 2.2 for a place.
    """
    each = math.log2(math.log(2) * among / count + 1) + 4.2 if count else 0.0
    return math.ceil(count * each / 8) + 3


def expected_bytes(count: int, among: int) -> int:
    """Bytes of `count` places that are chosen with equal chance, for few among many."""
    each = math.log2(among / count) + 1.46 if count else 0.0
    return math.ceil(count * each / 8) + 1


def write(places: np.ndarray, among: int) -> Bytes:
    """Codes of ascending places, int64, in the order of the streams."""
    m, width, spare = _split(len(places), among)
    quotients, rest = np.divmod(np.diff(places, prepend=-1) - 1, m)
    is_long = rest >= spare
    rest += spare * is_long
    fixed = np.where(is_long, rest >> 1, rest)
    ends = np.cumsum(quotients + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1 if len(ends) else 0, dtype=np.uint8)
    unary[ends] = 1
    last = (rest[is_long] & 1).astype(np.uint8)
    return np.concatenate([_narrow(fixed, width), np.packbits(last), np.packbits(unary)])


def read(codes: Bytes, count: int, among: int) -> np.ndarray | None:
    """The places, int64, or None: these are no codes of `count` ascending places below `among`."""
    m, width, spare = _split(count, among)
    to_last = -(-count * width // 8)
    if len(codes) < to_last:
        return None
    rest = _wide(codes[:to_last], count, width)
    is_long = rest >= spare
    longs = int(is_long.sum())
    to_unary = to_last + -(-longs // 8)
    if len(codes) < to_unary:
        return None
    last = np.unpackbits(codes[to_last:to_unary], count=longs)
    rest[is_long] = 2 * rest[is_long] + last - spare
    ends = np.flatnonzero(np.unpackbits(codes[to_unary:]))
    used = int(ends[-1]) // 8 + 1 if len(ends) else 0
    if len(ends) != count or len(codes) != to_unary + used:
        return None
    places = np.cumsum((np.diff(ends, prepend=-1) - 1) * m + rest + 1) - 1
    return None if count and places[-1] >= among else places


def _split(count: int, among: int) -> tuple[int, int, int]:
    """`m`, the bits that all its remainders have, and how many of them have no more."""
    m = divisor(count, among)
    width = m.bit_length() - 1
    return m, width, (2 << width) - m


def _narrow(numbers: np.ndarray, width: int) -> Bytes:
    """Numbers of `width` bits, at most 32, without gaps."""
    bits = np.unpackbits(numbers.astype(">u4").view(np.uint8)).reshape(-1, 32)
    return np.packbits(bits[:, 32 - width :])


def _wide(packed: Bytes, count: int, width: int) -> np.ndarray:
    bits = np.zeros((count, 32), dtype=np.uint8)
    bits[:, 32 - width :] = np.unpackbits(packed, count=count * width).reshape(count, width)
    return np.packbits(bits).view(">u4").astype(np.int64)
