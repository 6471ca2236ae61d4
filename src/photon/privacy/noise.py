"""Normal noise that only the holder of a key can know, by address.

The stream is BLAKE3's extended output under a key of 32 bytes: a pseudo-random function of the
address, whose bytes tell nothing of the others (O'Connor et al. 2020, section 6). Each 8 bytes make
one number in (0, 1) of 52 bits, and the inverse of the normal distribution function makes that
normal; so no number depends on which others are asked for, and the tails end at 8.2 deviations.
"""

from __future__ import annotations

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

KEY_BYTES = 32
BITS = 52
"""Of a number in (0, 1): with half a unit added it has the 53 bits of a float64, and is never 1."""


def normals(key: bytes, address: str, start: int, stop: int) -> Tensor:
    """Elements of the endless row of independent standard normal numbers at an address.

    Returns:
        [stop - start], float64; equal for equal arguments.
    """
    stream = blake3(address.encode(), key=key)
    raw = stream.digest(length=8 * (stop - start), seek=8 * start)
    whole = np.frombuffer(raw, dtype="<u8") >> np.uint64(64 - BITS)
    uniform = torch.from_numpy(whole.astype(np.float64))
    return torch.special.ndtri(uniform.add_(0.5).mul_(2.0**-BITS))


def secret_seed(key: bytes, purpose: str) -> int:
    """A seed for `core.seeds` that does not follow from anything public."""
    return int.from_bytes(blake3(purpose.encode(), key=key).digest(), "big")


def name_of(key: bytes) -> str:
    """Tells keys from each other, and nothing of them."""
    return blake3(b"name", key=key).hexdigest()[:16]
