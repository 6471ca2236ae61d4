"""A secret in shares: enough of them give it back, fewer say nothing of it (Shamir 1979).

A share is the value of a random polynomial, whose constant term is the secret, at a holder's place;
all numbers are modulo a prime beyond every secret of 32 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import lru_cache

Random = Callable[[int], bytes]
"""Gives so many unpredictable bytes."""

PRIME = 2**256 + 297
"""The smallest beyond 2^256."""
SECRET_BYTES = 32
SHARE_BYTES = 33
_DRAWN_BYTES = 49
"""Of a coefficient before it is reduced, so that none is likelier than another by 2^-128."""


def split(
    secret: bytes, threshold: int, holders: Collection[int], random: Random
) -> dict[int, bytes]:
    """A share of a secret for each holder; any `threshold` of them give it back.

    Args:
        secret: 32 bytes.
        holders: numbers from 0 on, below the prime.

    Raises:
        ValueError: fewer holders than the threshold, or a secret of another length.
    """
    if not 1 <= threshold <= len(holders) or len(secret) != SECRET_BYTES:
        raise ValueError(f"{threshold} of {len(holders)} shares of {len(secret)} bytes")
    drawn = [int.from_bytes(random(_DRAWN_BYTES)) % PRIME for _ in range(threshold - 1)]
    polynomial = [int.from_bytes(secret), *drawn]
    return {holder: _value(polynomial, holder + 1).to_bytes(SHARE_BYTES) for holder in holders}


def _value(polynomial: list[int], place: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * place + coefficient) % PRIME
    return value


@lru_cache(4)
def factors(holders: tuple[int, ...]) -> Mapping[int, int]:
    """What the share of each of these holders counts for in the secret (Lagrange, at zero).

    It takes the square of their number, and a session asks for the same ones for each client.
    """
    places = {holder: holder + 1 for holder in holders}
    found = {}
    for holder, own in places.items():
        above, below = 1, 1
        for place in places.values():
            if place != own:
                above, below = above * place % PRIME, below * (place - own) % PRIME
        found[holder] = above * pow(below, -1, PRIME) % PRIME
    return found


def joined(shares: Mapping[int, bytes], by: Mapping[int, int]) -> bytes | None:
    """The secret that shares give; None: it would have more than 32 bytes, so they do not fit.

    Args:
        shares: by holder.
        by: `factors` of as many holders as the threshold; others' shares are not looked at.
    """
    total = sum(int.from_bytes(shares[holder]) * factor for holder, factor in by.items()) % PRIME
    return total.to_bytes(SECRET_BYTES) if total < 2 ** (8 * SECRET_BYTES) else None
