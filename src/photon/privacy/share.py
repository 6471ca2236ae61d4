"""A client's share of the noise, which it adds to its update before that leaves the site."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from blake3 import blake3
from torch import Tensor

from photon.core.tree import PIECE_ELEMENTS
from photon.privacy.merge import shortened
from photon.privacy.noise import normals

SURE = 8.0
"""Deviations: an honest client's noise is longer than its bound once in 10^13 updates."""


@dataclass(frozen=True, slots=True)
class Share:
    """What is done to each leaf of a pseudo-gradient.

    Attributes:
        factor: by which it is shortened.
        deviation: of the noise.
        address: of this very pseudo-gradient. Training that is repeated may give another one: with
            the same noise on both, their difference would be seen without any.
    """

    factor: float
    deviation: float
    key: bytes
    address: str

    def add_to(self, name: str, value: Tensor) -> None:
        """Shorten a leaf and add noise, in place."""
        flat = value.view(-1)
        for start in range(0, flat.numel(), PIECE_ELEMENTS):
            part = flat[start : start + PIECE_ELEMENTS]
            drawn = normals(self.key, f"{self.address} {name}", start, start + part.numel())
            part.mul_(self.factor).add_(drawn.mul_(self.deviation).to(part.device, part.dtype))


def share_for(
    leaves: Iterable[tuple[str, Tensor]], clip: float, deviation: float, key: bytes, address: str
) -> Share:
    """The share of a client.

    Args:
        leaves: of its pseudo-gradient; read once.
        address: of this client and round.
    """
    square, seen = 0.0, blake3(address.encode())
    for name, value in leaves:
        host = value.to("cpu", torch.float32).contiguous().view(-1)
        square += float(torch.linalg.vector_norm(host, dtype=torch.float64)) ** 2
        seen.update(name.encode()).update(host.numpy().tobytes())
    (factor,) = shortened([math.sqrt(square)], clip)
    return Share(factor, deviation, key, seen.hexdigest())


def longest(clip: float, deviation: float, elements: int) -> float:
    """Norm that a shortened update with its noise does not exceed.

    P(|g| > sqrt(d) + t) <= exp(-t^2 / 2) for d standard normal numbers (concentration of a
    Lipschitz function).
    """
    return clip + deviation * (math.sqrt(elements) + SURE)
