"""Scales of blocks in a byte each: sixteenths of an octave below the largest of their group.

A decoded scale has the same bits on every device: it is a product of two numbers, one of a table.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 16
"""Scales that an octave is divided into: each is at most 4.4 % too large."""
NOTHING = 255
"""Code of a block that is read as zeros."""
LEAST = 2.0**-96
"""A group whose largest scale is smaller is read as zeros: float32 divides by none of them."""
_TABLE = torch.tensor([2.0 ** (-code / STEPS) for code in range(NOTHING)] + [0.0])


def coded(sizes: Tensor, groups: int, is_kept: bool = False) -> tuple[Tensor, Tensor]:
    """What is sent for the scales of the blocks of some groups.

    Args:
        sizes: [blocks], what the scales must not be below; all groups have as many.
        is_kept: a block that is too small for its group gets the least scale, not none.

    Returns:
        [groups], float32, and [blocks], uint8. Of what is not finite, neither is the largest.
    """
    rows = sizes.view(groups, -1)
    tops = rows.amax(1)
    tops.masked_fill_(tops < LEAST, 0.0)
    codes = (tops[:, None] / rows).log2_().mul_(STEPS).floor_().nan_to_num_(NOTHING, NOTHING)
    codes.clamp_(0, NOTHING)
    if is_kept:
        codes = torch.where(rows > 0, codes.clamp(max=NOTHING - 1), codes)
    return tops, codes.view(-1).to(torch.uint8)


def decoded(tops: Tensor, codes: Tensor, group: int, first: int = 0) -> Tensor:
    """Scales, float32, from `codes`, of which the first is that of block `first`.

    Args:
        tops: of all groups of `group` blocks.
    """
    own = _TABLE.to(codes.device).index_select(0, codes.int())
    if first // group == (first + codes.numel() - 1) // group:
        return own.mul_(tops[first // group])
    blocks = torch.arange(first, first + codes.numel(), device=codes.device)
    return own.mul_(tops[blocks // group])


def fault(tops: Tensor) -> str | None:
    """Why these cannot be the largest scales of groups, or None."""
    is_sound = bool((tops.isfinite() & (tops >= 0)).all())
    return None if is_sound else "a scale is negative or not finite"
