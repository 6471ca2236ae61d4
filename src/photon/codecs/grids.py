"""What the numbers of a block may be read as, by the block's scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Grid(Protocol):
    """Numbers that a code of a few bits stands for, in units of its own.

    `bits` of a code: 1, 2, 4 or 8. `unit` is in units of a block's scale, and that is the largest
    magnitude of the block, or with `is_mean` the mean one.
    """

    @property
    def bits(self) -> int: ...

    @property
    def unit(self) -> float: ...

    @property
    def is_mean(self) -> bool: ...

    def round_(self, value: Tensor, codes: Tensor) -> None:
        """Write the codes of numbers into `codes`, uint8, and into `value` what they stand for.

        What is not a number gets any code that there is.
        """
        ...

    def levels(self, codes: Tensor) -> Tensor:
        """What codes stand for, float32."""
        ...


@dataclass(frozen=True)
class Even:
    """Levels at equal distances on both sides of zero.

    Attributes:
        bits: as of a `Grid`.
        step: from one level to the next, in units of the mean magnitude; None: the last levels
            are the largest magnitude.
        first: the least that is not negative, in steps: 0.5, or 0 where zero is one of them.
    """

    bits: int
    step: float | None = None
    first: float = 0.5

    @property
    def is_mean(self) -> bool:
        return self.step is not None

    @property
    def half(self) -> int:
        return 1 << (self.bits - 1)

    @property
    def unit(self) -> float:
        return 1 / (self.half - 1 + self.first) if self.step is None else self.step

    def round_(self, value: Tensor, codes: Tensor) -> None:
        value.floor_() if self.first else value.round_()
        if self.is_mean:
            value.clamp_(-self.half, self.half - 1)
        # Signed bytes take no longer than a copy, unsigned ones several times as long.
        codes.view(torch.int8).copy_(value)
        codes.bitwise_xor_(self.half).bitwise_and_(2 * self.half - 1)
        value.add_(self.first)

    def levels(self, codes: Tensor) -> Tensor:
        return codes.to(torch.float32).sub_(self.half - self.first)


@dataclass(frozen=True)
class Listed:
    """Levels of a list.

    Attributes:
        values: levels by code.
        nearest: codes, uint8, of numbers; it may write over them.
    """

    bits: int
    values: tuple[float, ...]
    nearest: Callable[[Tensor], Tensor]
    is_mean: bool = False
    unit: float = 1.0

    def round_(self, value: Tensor, codes: Tensor) -> None:
        codes.copy_(self.nearest(value)).clamp_(max=len(self.values) - 1)
        value.copy_(self.levels(codes))

    def levels(self, codes: Tensor) -> Tensor:
        table = torch.tensor(self.values, device=codes.device)
        return table.index_select(0, codes.view(-1).int()).view(codes.shape)


@dataclass(frozen=True)
class Halved:
    """The largest magnitude of the block and its halves, quarters, ... with both signs.

    A code is a sign and how many times to halve. As a bfloat16, a level is sign and exponent.
    """

    bits: int = 4
    is_mean: bool = False
    unit: float = 1.0

    def round_(self, value: Tensor, codes: Tensor) -> None:
        # Half of the last bit that stays, before the others are cut off.
        first = value.view(torch.int32).add_(1 << 22).bitwise_right_shift_(16).to(torch.int16)
        signs = first & -0x8000
        sizes = first.bitwise_and_(_EXPONENT).clamp_(_ONE - 7 * _OCTAVE, _ONE)
        value.copy_((signs | sizes).view(torch.bfloat16))
        times = sizes.neg_().add_(_ONE).bitwise_right_shift_(7)
        codes.copy_(times.bitwise_or_(signs.bitwise_right_shift_(12).bitwise_and_(8)))

    def levels(self, codes: Tensor) -> Tensor:
        wide = codes.to(torch.int16)
        # The bit of the sign becomes the first one, and takes back what it is to be halved by.
        first = (wide & 8).mul_(_OCTAVE - 0x1000).add_(_ONE).sub_(wide, alpha=_OCTAVE)
        return first.view(torch.bfloat16).to(torch.float32)


_OCTAVE, _ONE, _EXPONENT = 0x80, 0x3F80, 0x7F80
"""In the bits of a bfloat16: twice as large, 1, and all of the exponent."""

E3M0 = Halved()

FOUR = Even(2, step=1.248)
"""The even levels that lose least of normally distributed numbers (Max 1960)."""

SIGNS = Even(1, step=2.0)
"""The mean magnitude, with both signs."""

TAIL = Listed(
    2,
    (-1.24, -0.94, 0.94, 1.24),
    lambda value: (value >= -1.09).byte().add_(value >= 0).add_(value >= 1.09),
    is_mean=True,
)
"""Two magnitudes with both signs, that lose least of the largest of many such numbers."""


def falling(bits: int, steps: int) -> Listed:
    """Levels that fall from 1 by `steps` an octave, and never reach zero."""

    def nearest(value: Tensor) -> Tensor:
        return value.log2_().mul_(-steps).round_().clamp_(0, 2**bits - 1).to(torch.uint8)

    return Listed(bits, tuple(2.0 ** (-code / steps) for code in range(2**bits)), nearest)
