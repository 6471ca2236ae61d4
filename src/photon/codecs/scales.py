"""Scales of blocks in a byte each: sixteenths of an octave below the largest of their group.

A decoded scale has the same bits on every device: it is a product of two numbers, one of a table.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

STEPS = 16
"""Scales that an octave is divided into: each is at most 4.4 % too large."""
NOTHING = 255
"""Code of a block that is read as zeros."""
LEAST = 2.0**-96
"""A group whose largest scale is smaller is read as zeros: float32 divides by none of them."""
_TABLE = torch.tensor([2.0 ** (-code / STEPS) for code in range(NOTHING)] + [0.0])


def coded(sizes: Tensor, group: int, is_kept: bool = False) -> tuple[Tensor, Tensor]:
    """What is sent for the scales of the blocks of a tensor.

    Args:
        sizes: [blocks], what the scales must not be below.
        group: blocks whose largest scale is sent in full.
        is_kept: a block that is too small for its group gets the least scale, not none.

    Returns:
        [groups], float32, and [blocks], uint8. Of what is not finite, neither is the largest.
    """
    groups = -(-sizes.numel() // group)
    tops = pad(sizes, (0, groups * group - sizes.numel())).view(groups, group).amax(1)
    tops = tops.masked_fill(tops < LEAST, 0.0)
    each = tops.repeat_interleave(group)[: sizes.numel()]
    codes = (each / sizes).log2_().mul_(STEPS).floor_().nan_to_num_(NOTHING, NOTHING)
    codes = codes.clamp_(0, NOTHING)
    if is_kept:
        codes = torch.where(sizes > 0, codes.clamp(max=NOTHING - 1), codes)
    return tops, codes.to(torch.uint8)


def decoded(tops: Tensor, codes: Tensor, group: int, first: int = 0) -> Tensor:
    """Scales, float32, from `codes`, of which the first is that of block `first`."""
    own = _TABLE.to(codes.device)[codes.int()]
    blocks = torch.arange(first, first + codes.numel(), device=codes.device)
    return own.mul_(tops[blocks // group])


def fault(tops: Tensor) -> str | None:
    """Why these cannot be the largest scales of groups, or None."""
    is_sound = bool((tops.isfinite() & (tops >= 0)).all())
    return None if is_sound else "a scale is negative or not finite"
