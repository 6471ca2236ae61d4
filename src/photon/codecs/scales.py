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
_LEAST = (127 - 96) << 4
_INFINITE = 255 << 4


def coded(sizes: Tensor, groups: int, is_kept: bool = False) -> tuple[Tensor, Tensor]:
    """What is sent for the scales of the blocks of some groups.

    Args:
        sizes: [blocks], not negative, what the scales must not be below; they are written over.
            All groups have as many.
        is_kept: a block that is too small for its group gets the least scale, not none.

    Returns:
        [groups], int32, and [blocks], uint8: 0 is the code of a block without a scale.
    """
    firsts = sizes.abs_().view(torch.int32).add((1 << CUT) - 1).bitwise_right_shift_(CUT)
    firsts = firsts.view(groups, -1)
    bases = firsts.amax(1).sub_(MOST).clamp_(min=_LEAST)
    codes = firsts.sub_(bases[:, None]).clamp_(0, MOST).view(-1).to(torch.uint8)
    return bases, torch.maximum(codes, (sizes > 0).byte()) if is_kept else codes


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
