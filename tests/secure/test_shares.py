"""Shamir's shares against a hand-computed example, and what fewer of them say: nothing."""

from __future__ import annotations

import itertools

import pytest

from photon.secure import shares
from photon.secure.shares import PRIME, SHARE_BYTES, factors, joined, split


def coefficients(*values: int):
    """A source of randomness that gives these coefficients."""
    left = iter(values)
    return lambda size: next(left).to_bytes(size)


def test_the_prime_is_the_smallest_beyond_every_secret():
    def is_prime(n: int) -> bool:  # Miller and Rabin, with more bases than such an n needs to lie
        d, r = n - 1, 0
        while d % 2 == 0:
            d, r = d // 2, r + 1
        for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53):
            x = pow(base, d, n)
            if x not in (1, n - 1) and all((x := x * x % n) != n - 1 for _ in range(r - 1)):
                return False
        return True

    assert is_prime(PRIME)
    assert not any(is_prime(n) for n in range(2**256, PRIME))


def test_shares_of_a_small_example_by_hand():
    """1234 + 166 x + 94 x^2 at 1 to 6: the example of Shamir's scheme on Wikipedia, by hand."""
    found = split((1234).to_bytes(32), 3, range(6), coefficients(166, 94))
    values = [int.from_bytes(found[holder]) for holder in range(6)]
    assert values == [1494, 1942, 2578, 3402, 4414, 5614]
    for chosen in itertools.combinations(range(6), 3):
        assert joined(found, factors(tuple(chosen))) == (1234).to_bytes(32)


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, bytes(range(32))])
def test_any_threshold_of_random_shares_give_the_secret_back(secret):
    found = split(secret, 4, [3, 0, 17, 999_999_998, 5], shares_random())
    assert {len(share) for share in found.values()} == {SHARE_BYTES}
    for chosen in itertools.combinations(found, 4):
        assert joined(found, factors(tuple(chosen))) == secret


def shares_random():
    import secrets

    return secrets.token_bytes


def test_fewer_shares_fit_every_secret():
    """For any other secret there is a polynomial with the same two of three shares."""
    found = split((7).to_bytes(32), 3, range(5), shares_random())
    known = {holder: int.from_bytes(found[holder]) for holder in (1, 4)}
    for other in (0, 8, 2**255 + 1):
        # Through (0, other) and the two known points there is a parabola, as for the secret.
        points = {-1: other, **known}
        value = {
            x: sum(
                y * _product((x - j) * pow(i - j, -1, PRIME) for j in points if j != i)
                for i, y in points.items()
            )
            % PRIME
            for x in (0, 2, 3)
        }
        forged = {**{h: found[h] for h in known}, **{x: v.to_bytes(33) for x, v in value.items()}}
        assert joined(forged, factors((1, 4, 2))) == joined(forged, factors((0, 1, 4)))
        assert joined(forged, factors((1, 4, 2))) == other.to_bytes(32)


def _product(values) -> int:
    found = 1
    for value in values:
        found = found * value % PRIME
    return found


def test_what_cannot_be_shared_is_refused_and_what_is_no_secret_is_none():
    for secret, threshold, holders in ((bytes(32), 4, range(3)), (bytes(31), 2, range(3))):
        with pytest.raises(ValueError, match="shares"):
            split(secret, threshold, holders, shares_random())
    beyond = {holder: (PRIME - 1).to_bytes(33) for holder in range(2)}  # 2^256 + 296: no 32 bytes
    assert joined(beyond, factors((0, 1))) is None
    assert shares.SECRET_BYTES == 32
