"""Scales of blocks in a byte each: the first bits of float32 numbers, and a number for a group.

Sign, exponent and the first 4 bits of the fraction of a float32 are a whole number; a code is how
far it is above that of the group. No scale is rounded twice, so each has the same bits on every
device.
"""

from __future__ import annotations

import torch
from torch import Tensor

CUT = 19
"""Bits of the fraction that are cut off: a scale is at most 1/16 too large."""
MOST = 255
LEAST = 2.0**-96
"""What is smaller is read as zero: float32 divides by none of it."""
_CUT_OFF = (1 << CUT) - 1
_LEAST = (127 - 96) << 4
_INFINITE = 255 << 4


def settle_(sizes: Tensor, is_kept: bool = False) -> Tensor:
    """Make scales of the sizes of blocks, in place: the least that are not below them.

    Args:
        sizes: [groups, blocks], not negative.
        is_kept: a block that is too small for its group gets the least scale, not none.
    """
    bits = sizes.nan_to_num_(nan=torch.inf, posinf=torch.inf).view(torch.int32)
    bits.add_(_CUT_OFF).bitwise_and_(~_CUT_OFF)
    base = bits.amax(1, keepdim=True).sub_(MOST << CUT).clamp_(min=_LEAST << CUT)
    if is_kept:
        return sizes.copy_(torch.maximum(bits, base + (1 << CUT)).mul_(bits > 0).view(sizes.dtype))
    return sizes.masked_fill_(bits <= base, 0.0)


def coded(scale: Tensor) -> tuple[Tensor, Tensor]:
    """What is sent for scales, [groups, blocks].

    Returns:
        [groups], int32, and [groups * blocks], uint8: 0 is the code of a block without a scale.
    """
    firsts = scale.view(torch.int32) >> CUT
    bases = firsts.amax(1).sub_(MOST).clamp_(min=_LEAST)
    return bases, firsts.sub_(bases[:, None]).clamp_(0, MOST).to(torch.uint8).view(-1)


def decoded(bases: Tensor, codes: Tensor, group: int, first: int = 0) -> Tensor:
    """Scales, float32, from `codes`, of which the first is that of block `first`.

    Args:
        bases: of all groups of `group` blocks.
    """
    firsts = codes.to(torch.int32)
    if first // group == (first + codes.numel() - 1) // group:
        firsts.add_(bases[first // group])
    else:
        blocks = torch.arange(first, first + codes.numel(), device=codes.device)
        firsts.add_(bases[blocks // group])
    return firsts.bitwise_left_shift_(CUT).view(torch.float32).masked_fill_(codes == 0, 0.0)


def fault(bases: Tensor) -> str | None:
    """Why these are no numbers of groups, or None."""
    is_sound = bool(((bases >= _LEAST) & (bases < _INFINITE - MOST)).all())
    return None if is_sound else "a scale is negative, too small or not finite"
