"""What the numbers of a block may be read as, by the block's scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Numbers that a code of a few bits stands for.

    Attributes:
        bits: of a code: 1, 2, 4 or 8.
        levels: by code, in units of the block's scale.
        nearest: codes, uint8, of numbers in those units.
        is_mean: the scale is the mean magnitude of a block, not the largest.
    """

    bits: int
    levels: tuple[float, ...]
    nearest: Callable[[Tensor], Tensor]
    is_mean: bool = False

    def table(self, device: torch.device) -> Tensor:
        """The levels, float32."""
        return torch.tensor(self.levels, device=device)


def even(bits: int) -> Grid:
    """Levels at equal distances, from the largest magnitude with one sign to that with the other;
    zero is none of them.
    """
    half = 2 ** (bits - 1)

    def nearest(value: Tensor) -> Tensor:
        return (value * (half - 0.5) + half).to(torch.uint8)

    return Grid(
        bits, tuple((code + 0.5 - half) / (half - 0.5) for code in range(2 * half)), nearest
    )


def _halvings(value: Tensor) -> Tensor:
    """Sign, and how many times to halve 1 to be nearest."""
    rounded = (value.abs().view(torch.int32) + (1 << 22)) >> 23
    return ((value < 0) * 8 + (127 - rounded).clamp_(0, 7)).to(torch.uint8)


_HALVED = [0.5**times for times in range(8)]
E3M0 = Grid(4, (*_HALVED, *(-level for level in _HALVED)), _halvings)
"""The largest magnitude of the block and its halves, quarters, ... with both signs."""

SIGNS = Grid(1, (1.0, -1.0), lambda value: (value < 0).to(torch.uint8), is_mean=True)
"""The mean magnitude, with both signs."""


def pairs(low: float, high: float) -> Grid:
    """Two magnitudes with both signs, in units of the mean magnitude."""
    middle = (low + high) / 2

    def nearest(value: Tensor) -> Tensor:
        return ((value < 0) * 2 + (value.abs() >= middle)).to(torch.uint8)

    return Grid(2, (low, high, -low, -high), nearest, is_mean=True)


NORMAL = pairs(0.567, 1.893)
"""That lose least of normally distributed numbers (Lloyd 1982; Max 1960)."""
TAIL = pairs(0.94, 1.24)
"""That lose least of the largest of many such numbers."""


def falling(bits: int, steps: int) -> Grid:
    """Levels that fall from 1 by `steps` an octave, and never reach zero."""

    def nearest(value: Tensor) -> Tensor:
        return value.log2().mul_(-steps).round_().clamp_(0, 2**bits - 1).to(torch.uint8)

    return Grid(bits, tuple(2.0 ** (-code / steps) for code in range(2**bits)), nearest)
