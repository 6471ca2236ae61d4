"""The only source of randomness: every draw has an address, so nothing needs to be replayed."""

import hashlib

import numpy as np

_MASK = (1 << 63) - 1


def derive_seed(seed: int, purpose: str, *address: int) -> int:
    """Seed of one draw: a hash of the run's seed, what the draw is for, and where it happens.

    Args:
        purpose: what is drawn, for example `"cohort"`.
        address: round, client, epoch, step: whatever tells this draw from its siblings.

    Returns:
        An integer in [0, 2**63), equal on every machine and Python version.
    """
    text = ":".join([str(seed), purpose, *map(str, address)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") & _MASK


def generator(seed: int, purpose: str, *address: int) -> np.random.Generator:
    """NumPy's generator for one draw; arguments as of `derive_seed`."""
    return np.random.Generator(np.random.Philox(derive_seed(seed, purpose, *address)))
