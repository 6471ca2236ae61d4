"""Codecs of a few bits a number and a scale for each block of them.

A tensor is sent as one row of bytes: a number for each group of blocks, the scales, the codes. It
is worked on group by group where that stays in the caches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from photon.codecs import scales
from photon.codecs.grids import E3M0, FOUR, SIGNS, Even, Grid, falling
from photon.codecs.packing import pack, unpack
from photon.codecs.pieces import PIECE, checked, numbers, pieces, write
from photon.core.codec import Codec, Leaf, Parts


@dataclass(frozen=True)
class Blocks:
    """How a tensor is cut into blocks, and coded.

    Attributes:
        block: elements.
        is_root: what is coded is the square root; nothing is fed back.
    """

    grid: Grid
    block: int
    is_root: bool = False

    @property
    def group(self) -> int:
        """Blocks of a group."""
        return PIECE // self.block

    def places(self, numel: int) -> tuple[int, int, int]:
        """Of a tensor of so many elements: where scales and codes begin, and all bytes."""
        blocks = -(-numel // self.block)
        codes = 4 * -(-blocks // self.group) + blocks
        return codes - blocks, codes, codes + -(-numel * self.grid.bits // 8)

    def encode(self, value: Tensor, residual: Tensor | None) -> tuple[Parts, Tensor | None]:
        flat, numel = value.reshape(-1), value.numel()
        to_scales, to_codes, end = self.places(numel)
        sent = flat.new_empty(end, dtype=torch.uint8)
        if flat.is_meta or not numel:
            return {"": sent}, None if self.is_root else torch.empty_like(value)
        before = None if residual is None or self.is_root else residual.reshape(-1)
        left = self._room(flat, before)
        scale = flat.new_zeros(to_scales // 4, self.group)
        memory = self._memory(left)
        for at in pieces(flat):
            blocks = -(-(at.stop - at.start) // self.block)
            rows = left[0 if self.is_root else at.start :].view(-1, self.block)[:blocks]
            self._mean(flat[at], None if before is None else before[at], rows.view(-1))
            sizes = scale[at.start // PIECE :].view(-1)[:blocks]
            found, codes = (each[:blocks] for each in memory)
            self._encode(rows, at.stop - at.start, sizes, found, codes)
            codes = pack(codes.view(-1)[: at.stop - at.start], self.grid.bits)
            write(sent, {to_codes + at.start * self.grid.bits // 8: codes})
        bases, own = scales.coded(scale)
        write(sent, {0: bases, to_scales: own[: to_codes - to_scales]})
        return {"": sent}, None if self.is_root else left[:numel].view(value.shape)

    def _room(self, flat: Tensor, before: Tensor | None) -> Tensor:
        """Memory for what is left, in whole blocks, or for the roots of one piece; that of what was
        left before, where it has the size.
        """
        numel = next(pieces(flat)).stop if self.is_root else flat.numel()
        if before is not None and numel % self.block == 0:
            return before
        return flat.new_empty(-(-numel // self.block) * self.block)

    def _memory(self, left: Tensor) -> tuple[Tensor, Tensor]:
        """[blocks, elements] of the largest piece: for what is read, and for codes."""
        found = torch.empty_like(left[next(pieces(left))].view(-1, self.block))
        return found, torch.empty_like(found, dtype=torch.uint8)

    def _mean(self, value: Tensor, before: Tensor | None, into: Tensor) -> None:
        """Write what is meant to be sent, and zeros up to the end of the last block."""
        into[value.numel() :] = 0.0
        meant = into[: value.numel()]
        if self.is_root:
            torch.sqrt(value, out=meant)
        elif before is None:
            meant.copy_(value)
        else:
            torch.add(value, before, out=meant)

    def _encode(
        self, rows: Tensor, numel: int, scale: Tensor, found: Tensor, codes: Tensor
    ) -> None:
        """Write the codes and scales of some whole groups, or of the last one; what they lose stays
        in `rows`.
        """
        self._measure(torch.abs(rows, out=found), numel, scale)
        scales.settle_(scale.view(max(1, len(scale) // self.group), -1), self.is_root)
        unit = scale[:, None] * self.grid.unit
        inverse = unit.reciprocal().masked_fill_(unit == 0, 0.0)
        self.grid.round_(torch.mul(rows, inverse, out=found), codes)
        if not self.is_root:
            torch.addcmul(rows, found, unit, value=-1, out=rows)

    def _measure(self, magnitudes: Tensor, numel: int, sizes: Tensor) -> None:
        """Write what the scale of each block is to be; the last may be short."""
        if not self.grid.is_mean:
            torch.amax(magnitudes, 1, out=sizes)
            return
        torch.mean(magnitudes, 1, out=sizes)
        if rest := -numel % self.block:
            sizes[-1] *= self.block / (self.block - rest)

    def read(self, leaf: Leaf, start: int, stop: int) -> Tensor:
        sent, numel = leaf.parts[""], leaf.numel()
        if start == stop:
            return sent.new_empty(0, dtype=torch.float32)
        to_scales, to_codes, end = self.places(numel)
        first, last = start // self.block, -(-stop // self.block)
        begin, after = (block * self.block * self.grid.bits // 8 for block in (first, last))
        bases = numbers(sent, torch.int32, 0, to_scales)
        own = sent[to_scales + first : to_scales + last]
        unit = scales.decoded(bases, own, self.group, first)
        if self.is_root:  # its square must not be zero
            unit = torch.where(unit > 0, unit.clamp(min=2.0**-48), unit)
        codes = unpack(sent[to_codes + begin : min(to_codes + after, end)], self.grid.bits)
        if rest := (last - first) * self.block - codes.numel():
            codes = pad(codes, (0, rest))
        found = (
            self.grid.levels(codes).view(-1, self.block).mul_(unit.mul_(self.grid.unit)[:, None])
        )
        if self.is_root:
            found.square_()
        return found.view(-1)[start - first * self.block : stop - first * self.block]

    def fault(self, leaf: Leaf) -> str | None:
        to_scales, _, _ = self.places(leaf.numel())
        return scales.fault(numbers(leaf.parts[""], torch.int32, 0, to_scales))


def roots(grid: Grid, block: int) -> Codec:
    """For means of squares: their roots are sent, nothing is fed back."""
    own = Blocks(grid, checked(block), is_root=True)
    return Codec(own.encode, own.read, own.fault)


def _codec(grid: Grid, block: int, squares: Grid, gain: float) -> Codec:
    """The codec of a grid.

    Raises:
        ValueError: as `checked`.
    """
    own = Blocks(grid, checked(block))
    return Codec(own.encode, own.read, own.fault, squares=roots(squares, block), gain=gain)


ROOTS_8, ROOTS_4, ROOTS_2 = falling(8, 16), falling(4, 2), falling(2, 1)


def int8(block: int) -> Codec:
    return _codec(Even(8, first=0), block, ROOTS_8, gain=2.0)


def int4(block: int) -> Codec:
    return _codec(Even(4), block, ROOTS_4, gain=2.0)


def e3m0(block: int) -> Codec:
    return _codec(E3M0, block, ROOTS_4, gain=2.0)


def int2(block: int) -> Codec:
    return _codec(FOUR, block, ROOTS_2, gain=1 + math.sqrt(block) / 3)


def int1(block: int) -> Codec:
    return _codec(SIGNS, block, ROOTS_2, gain=math.sqrt(block))
