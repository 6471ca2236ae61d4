"""Numbers of 1, 2, 4 or 8 bits in bytes, the first in the lowest bits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

_MASKS = {
    4: [(4, 0x0F0F)],
    2: [(12, 0x000F000F), (6, 0x03030303)],
    1: [(28, 0x0000000F0000000F), (14, 0x0003000300030003), (7, 0x0101010101010101)],
}
"""By the bits of a number: shifts and masks that spread the numbers of one byte to a byte each."""
_TYPES = {4: torch.int16, 2: torch.int32, 1: torch.int64}
"""By the bits of a number: the type that holds the numbers of one byte, spread to a byte each."""


def pack(codes: Tensor, bits: int) -> Tensor:
    """Bytes of numbers below `2**bits`, a row of uint8; the last byte is filled with zeros."""
    if bits == 8:
        return codes
    rest = -codes.numel() % (8 // bits)
    word = (pad(codes, (0, rest)) if rest else codes).view(_TYPES[bits])
    for shift, _ in reversed(_MASKS[bits]):
        word = (word >> shift).bitwise_or_(word)
    return word.to(torch.uint8)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """All numbers in a row of bytes, a row of uint8."""
    if bits == 8:
        return packed
    word = packed.to(_TYPES[bits])
    for shift, mask in _MASKS[bits]:
        word = (word << shift).bitwise_or_(word).bitwise_and_(mask)
    return word.view(torch.uint8)
