"""How updates are merged so that no client shows: shortened, summed, with noise.

McMahan et al. 2018 (arXiv:1710.06963), algorithm 1, with the sum divided by a fixed number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from photon.container.container import digest
from photon.core.aggregate import Mix, Mixture, Piece
from photon.core.messages import Update
from photon.core.tree import Readable
from photon.privacy.noise import normals

Noise = Callable[[Piece], None]


def shortened(norms: Sequence[float], clip: float) -> list[float]:
    """Factors by which vectors of these norms are at most `clip` long."""
    return [1.0 if norm <= clip else clip / norm for norm in norms]


def private_mixture(
    gradients: Sequence[Readable], factors: Sequence[float], cohort: int, noise: Noise | None
) -> Mixture:
    """sum_k f_k x_k / K + noise, in the one pass that averages and steps.

    Args:
        cohort: K, however many updates there are: so that what a client changes is known before.
        noise: of the mean; None: it is in the updates.
    """
    by = Mix(factors, sum(factors) / cohort)
    return Mixture(dict.fromkeys(gradients[0], by), noise=noise)


def noise_on_mean(key: bytes, address: str, deviation: float) -> Noise:
    """Adds normal noise of a standard deviation to pieces of a mean.

    Args:
        address: of this sum, and of no other.
    """

    def add(piece: Piece) -> None:
        drawn = normals(key, f"{address} {piece.name}", piece.at.start, piece.at.stop)
        piece.mean.copy_(drawn.mul_(deviation).add_(piece.mean))

    return add


def identity(updates: Sequence[Update]) -> str:
    """Hex digest of whose updates these are and of what they say, before they are shortened."""
    whole = {
        f"{update.client}/{name}": value
        for update in updates
        for name, value in update.gradient.items()
    }
    return digest(whole)
