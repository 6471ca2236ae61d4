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

PART = 1 << 17
"""Elements that a core's own cache holds, with what they are read as."""


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
        if flat.is_meta:
            return {"": sent}, None if self.is_root else torch.empty_like(value)
        before = None if residual is None or self.is_root else residual.reshape(-1)
        left = None if self.is_root else self._room(flat, before)
        scale = flat.new_zeros(to_scales // 4, self.group)
        memory: list[Tensor] = []
        for at in pieces(flat):
            memory = memory or self._memory(flat[at])
            blocks = -(-(at.stop - at.start) // self.block)
            rows = memory[0] if left is None else left[at.start :].view(-1, self.block)
            own = scale[at.start // PIECE :].view(-1)[:blocks]
            part = None if before is None else before[at]
            self._encode(flat[at], part, rows[:blocks], own, memory)
            codes = pack(memory[-1].view(-1)[: at.stop - at.start], self.grid.bits)
            begin = to_codes + at.start * self.grid.bits // 8
            sent[begin : begin + len(codes)] = codes
        bases, own = scales.coded(scale)
        write(sent, {0: bases, to_scales: own[: to_codes - to_scales]})
        return {"": sent}, None if left is None else left[:numel].view(value.shape)

    def _room(self, flat: Tensor, before: Tensor | None) -> Tensor:
        """For what is left, in whole blocks: where what was left before is, if that can be."""
        rest = -flat.numel() % self.block
        if before is not None and not rest:
            return before
        room = flat.new_empty(flat.numel() + rest)
        room[flat.numel() :] = 0.0
        return room

    def _memory(self, piece: Tensor) -> list[Tensor]:
        """[blocks, elements], for roots, for what numbers are read as, and for codes."""
        blocks = -(-piece.numel() // self.block)
        most = min(blocks, PART // self.block) if piece.device.type == "cpu" else blocks
        roots = piece.new_zeros(blocks if self.is_root else 0, self.block)
        found = piece.new_empty(most, self.block)
        return [roots, found, piece.new_empty(blocks, self.block, dtype=torch.uint8)]

    def _encode(
        self,
        flat: Tensor,
        before: Tensor | None,
        rows: Tensor,
        scale: Tensor,
        memory: list[Tensor],
    ) -> None:
        """Write what is left of some whole groups or the last one into `rows`, and their scales."""
        _, found, codes = memory
        parts = list(zip(rows.split(len(found)), scale.split(len(found)), strict=True))
        for at, (part, sizes) in zip(pieces(flat, found.numel()), parts, strict=True):
            meant = part.view(-1)[: at.stop - at.start]
            if before is None:
                meant.copy_(flat[at])
            else:
                torch.add(flat[at], before[at], out=meant)
            if self.is_root:
                meant.sqrt_()
            self._measure(torch.abs(part, out=found[: len(part)]), meant.numel(), sizes)
        scales.settle_(scale.view(max(1, len(scale) // self.group), -1), self.is_root)
        unit = scale[:, None] * self.grid.unit
        inverse = unit.reciprocal().masked_fill_(unit == 0, 0.0)
        units = zip(unit.split(len(found)), inverse.split(len(found)), strict=True)
        for (part, _), own, (unit, inverse) in zip(parts, codes.split(len(found)), units):
            values = torch.mul(part, inverse, out=found[: len(part)])
            self.grid.round_(values, own[: len(part)])
            if not self.is_root:
                torch.addcmul(part, values, unit, value=-1, out=part)

    def _measure(self, magnitudes: Tensor, numel: int, sizes: Tensor) -> None:
        """Write what the scale of each block is to be; the last may be short."""
        if not self.grid.is_mean:
            torch.amax(magnitudes, 1, out=sizes)
            return
        torch.mean(magnitudes, 1, out=sizes)
        sizes[-1] *= self.block / (numel - (len(sizes) - 1) * self.block)

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
