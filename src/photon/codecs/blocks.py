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
        sent = flat.new_empty(self.places(numel)[-1], dtype=torch.uint8)
        left = None if self.is_root else torch.empty_like(flat)
        before = None if residual is None or self.is_root else residual.reshape(-1)
        memory: list[Tensor] = []
        for at in pieces(flat):
            memory = memory or self._memory(flat, at)
            self._encode(flat, before, left, sent, at, memory)
        return {"": sent}, None if left is None else left.view(value.shape)

    def _memory(self, flat: Tensor, at: slice) -> list[Tensor]:
        """For the numbers of the largest piece, what they are read as, and their codes."""
        shape = (-(-(at.stop - at.start) // self.block), self.block)
        return [flat.new_empty(shape, dtype=t) for t in (flat.dtype, flat.dtype, torch.uint8)]

    def _encode(
        self,
        flat: Tensor,
        before: Tensor | None,
        left: Tensor | None,
        sent: Tensor,
        at: slice,
        memory: list[Tensor],
    ) -> None:
        """Some whole groups, or the last one."""
        numel = at.stop - at.start
        blocks, found, codes = (each[: -(-numel // self.block)] for each in memory)
        meant = blocks.view(-1)[:numel]
        blocks.view(-1)[numel:] = 0.0
        if before is None:
            meant.copy_(flat[at])
        else:
            torch.add(flat[at], before[at], out=meant)
        if self.is_root:
            meant.sqrt_()
        sizes = self._sizes(torch.abs(blocks, out=found), numel)
        bases, own = scales.coded(sizes, max(1, len(blocks) // self.group), self.is_root)
        unit = scales.decoded(bases, own, self.group).mul_(self.grid.unit)[:, None]
        torch.mul(blocks, unit.reciprocal().masked_fill_(unit == 0, 0.0), out=found)
        self.grid.round_(found, codes)
        if left is not None:
            torch.sub(meant, found.mul_(unit).view(-1)[:numel], out=left[at])
        self._write(sent, at, flat.numel(), [bases, own, codes.view(-1)[:numel]])

    def _sizes(self, magnitudes: Tensor, numel: int) -> Tensor:
        """What the scale of each block is to be; the last may be short."""
        if not self.grid.is_mean:
            return magnitudes.amax(1)
        means = magnitudes.mean(1)
        means[-1] *= self.block / (numel - (len(means) - 1) * self.block)
        return means

    def _write(self, sent: Tensor, at: slice, numel: int, found: list[Tensor]) -> None:
        to_scales, to_codes, _ = self.places(numel)
        bases, own, codes = found
        parts = {
            4 * (at.start // PIECE): bases,
            to_scales + at.start // self.block: own,
            to_codes + at.start * self.grid.bits // 8: pack(codes, self.grid.bits),
        }
        write(sent, parts)

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
        if self.is_root:  # whose square is no zero
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
    return _codec(Even(8), block, ROOTS_8, gain=2.0)


def int4(block: int) -> Codec:
    return _codec(Even(4), block, ROOTS_4, gain=2.0)


def e3m0(block: int) -> Codec:
    return _codec(E3M0, block, ROOTS_4, gain=2.0)


def int2(block: int) -> Codec:
    return _codec(FOUR, block, ROOTS_2, gain=1 + math.sqrt(block) / 3)


def int1(block: int) -> Codec:
    return _codec(SIGNS, block, ROOTS_2, gain=math.sqrt(block))
