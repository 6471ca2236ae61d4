"""Loss as a function of a model's size. Pure functions.

Two forms: a power law L = A N^-alpha, which is how DiLoCo's losses were fitted for each number of
replicas (Charles et al. 2025, arXiv:2503.09799, section 4), and the same with a floor,
L = E + A N^-alpha (Hoffmann et al. 2022, arXiv:2203.15556, with tokens in proportion to N). Three
sizes overdetermine the first by one and determine the second, so that only the first can be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

EXPONENTS = np.geomspace(1e-3, 3.0, 400)
"""Among which the best is looked for first."""
NARROWER = 6
"""Times that the neighbourhood of the best is divided anew."""
Losses = Mapping[float, Sequence[float]]
"""Size -> losses of its seeds."""


@dataclass(frozen=True, slots=True)
class Law:
    """L = floor + scale N^-exponent."""

    scale: float
    exponent: float
    floor: float = 0.0

    def at(self, size: float) -> float:
        return self.floor + self.scale * size**-self.exponent

    @property
    def is_determined(self) -> bool:
        """Whether the losses say where the floor is: neither below nothing nor at an edge."""
        return self.floor >= 0 and EXPONENTS[0] < self.exponent < EXPONENTS[-1]


def power_law(losses: Losses) -> Law:
    """Least squares of the logarithms, of all seeds.

    Raises:
        ValueError: fewer than two sizes.
    """
    sizes, values = _points(losses, least=2)
    slope, start = np.polynomial.polynomial.polyfit(np.log(sizes), np.log(values), 1)[::-1]
    return Law(scale=float(np.exp(start)), exponent=float(-slope))


def law_with_floor(losses: Losses) -> Law:
    """Least squares of the losses: linear for each exponent, the best of which is narrowed down.

    Raises:
        ValueError: fewer than three sizes.
    """
    sizes, values = _points(losses, least=3)
    unit = float(sizes.min())  # for the condition of the system
    tried = EXPONENTS
    for _ in range(NARROWER):
        errors = [_with_exponent(sizes / unit, values, one)[0] for one in tried]
        best = int(np.argmin(errors))
        exponent = float(tried[best])
        tried = np.linspace(tried[max(0, best - 1)], tried[min(len(tried) - 1, best + 1)], 41)
    _, floor, scale = _with_exponent(sizes / unit, values, exponent)
    return Law(scale=scale * unit**exponent, exponent=exponent, floor=floor)


def _with_exponent(
    sizes: np.ndarray, values: np.ndarray, exponent: float
) -> tuple[float, float, float]:
    """Sum of squared errors, floor, scale."""
    terms = np.stack([np.ones_like(sizes), sizes**-exponent], axis=1)
    (floor, scale), *_ = np.linalg.lstsq(terms, values, rcond=None)
    return float(np.square(terms @ (floor, scale) - values).sum()), float(floor), float(scale)


def left_out(losses: Losses) -> dict[float, float]:
    """Size -> by how much, as a share, the power law of the others misses its mean loss."""
    return {
        size: power_law({n: own for n, own in losses.items() if n != size}).at(size)
        / float(np.mean(values)) - 1
        for size, values in losses.items()
    }  # fmt: skip


def exponents(losses: Losses, draws: int = 1000, share: float = 0.9) -> tuple[float, float]:
    """Ends of the interval that holds this share of the power law's exponents, when the seeds of
    each size are drawn anew with replacement (Efron 1979); no interval where there is one seed.
    """
    draw, found = np.random.default_rng(0), []
    for _ in range(draws):
        drawn = {n: list(draw.choice(own, len(own))) for n, own in losses.items()}
        found.append(power_law(drawn).exponent)
    low, high = np.quantile(found, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def _points(losses: Losses, least: int) -> tuple[np.ndarray, np.ndarray]:
    if len(losses) < least:
        raise ValueError(f"{least} sizes are the least that say something, not {len(losses)}")
    pairs = [(size, value) for size, own in losses.items() for value in own]
    sizes, values = np.array(pairs, dtype=float).T
    return sizes, values
