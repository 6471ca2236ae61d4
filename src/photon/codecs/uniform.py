"""The codec with one even grid for a whole tensor, and entropy-coded codes.

No code of fixed length loses as little at so few bits: for numbers that are normally distributed it
is a quarter of a bit from what is possible (Gish and Pierce 1968).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
import zstandard
from torch import Tensor
from torch.nn.functional import pad

from photon.codecs import scales
from photon.codecs.blocks import ROOTS_2, ROOTS_4, roots
from photon.codecs.pieces import numbers, pieces
from photon.core.codec import Codec, Leaf, Parts

SCALE = 4
"""Bytes of the scale."""
LEVEL_UNIT = 1 / 1024
"""Levels are multiples of it: no machine rounds them otherwise."""


@dataclass(frozen=True)
class Even:
    """How a tensor is sent: a row of bytes, with the root of its mean square and, compressed, the
    codes, several in a byte.

    Attributes:
        step: from one level to the next, in units of that root.
        levels: how many; an odd number. What is beyond the last is fed back.
    """

    step: float
    levels: int

    @property
    def half(self) -> int:
        return self.levels // 2

    @cached_property
    def each(self) -> int:
        """Codes in a byte."""
        return next(each for each in range(8, 0, -1) if self.levels**each <= 256)

    @cached_property
    def odds(self) -> list[float]:
        """Chances of a normally distributed number to be read as each level from zero up."""
        edges = [(code - 0.5) * self.step for code in range(1, self.half + 1)]
        beyond = [math.erfc(edge / math.sqrt(2)) / 2 for edge in edges] + [0.0]
        return [1 - 2 * beyond[0], *(low - high for low, high in pairwise(beyond))]

    @cached_property
    def values(self) -> Tensor:
        """[levels]: means of the normally distributed numbers that are read as each."""

        def density(edge: float) -> float:
            return math.exp(-edge * edge / 2) / math.sqrt(2 * math.pi)

        found = [0.0]
        for code in range(1, self.half + 1):
            low = (code - 0.5) * self.step
            high = density(low + self.step) if code < self.half else 0.0
            odds = self.odds[code]
            mean = (density(low) - high) / odds if odds > 1e-9 else code * self.step
            found.append(round(mean / LEVEL_UNIT) * LEVEL_UNIT)
        return torch.tensor([-value for value in found[:0:-1]] + found)

    @cached_property
    def decoded(self) -> Tensor:
        """[bytes, codes in a byte]: what each byte stands for."""
        codes = torch.arange(self.levels**self.each)[:, None] // self._powers().long()
        return self.values[codes % self.levels]

    def _powers(self) -> Tensor:
        return torch.tensor([float(self.levels**digit) for digit in range(self.each)])

    def packed_bytes(self, numel: int) -> int:
        return -(-numel // self.each)

    def most(self, shape: torch.Size) -> dict[str, int]:
        packed = self.packed_bytes(math.prod(shape))
        return {"": SCALE + packed + packed // 256 + 128}

    def bits(self) -> float:
        """Mean bits of a code, for normally distributed numbers."""
        entropy = -self.odds[0] * math.log2(self.odds[0])
        entropy -= 2 * sum(odds * math.log2(odds) for odds in self.odds[1:] if odds > 0)
        return max(1.01 * entropy, 1 / self.each)

    def encode(self, value: Tensor, residual: Tensor | None) -> tuple[Parts, Tensor | None]:
        flat = value.reshape(-1)
        if flat.is_meta:
            length = SCALE + 12 + math.ceil(flat.numel() * self.bits() / 8)
            return {"": flat.new_empty(length, dtype=torch.uint8)}, torch.empty_like(value)
        before = None if residual is None else residual.reshape(-1)
        left = torch.empty_like(flat) if before is None else before
        scale = self._meant(flat, before, left)
        packed = flat.new_empty(self.packed_bytes(flat.numel()), dtype=torch.uint8)
        powers, decoded = self._powers().to(flat.device), self.decoded.to(flat.device)
        for at in pieces(flat, self.each):
            into = packed[at.start // self.each : -(-at.stop // self.each)]
            self._take(left[at], scale, into, powers, decoded)
        frame = _compressed(packed.cpu().numpy())
        parts = [scale.view(1).view(torch.uint8), torch.from_numpy(frame).to(flat.device)]
        return {"": torch.cat(parts)}, left.view(value.shape)

    def _meant(self, flat: Tensor, before: Tensor | None, left: Tensor) -> Tensor:
        """Write what is meant to be sent into `left`, and give the scale.

        That is the root of the mean square, or less, so that the largest number is not read as
        zero: of numbers of one size none would ever be sent.
        """
        square, largest = left.new_zeros((), dtype=torch.float64), left.new_zeros(())
        for at in pieces(flat):
            part = left[at]
            if before is None:
                part.copy_(flat[at])
            else:
                torch.add(flat[at], before[at], out=part)
            here = torch.maximum(part.amax(), -part.amin())
            # In units of the largest no square is beyond float32.
            unit = 1.0 if here == 0 or 1e-12 < here < 1e12 else here.double()
            norm = torch.linalg.vector_norm(part if unit == 1.0 else part / here).double()
            square += (norm * unit).square()
            largest = torch.maximum(largest, here)
        root = (square / max(1, flat.numel())).sqrt()
        scale = torch.minimum(root, largest.double() / self.step).float()
        return scale.masked_fill(scale < scales.LEAST, 0.0)

    def _take(
        self, left: Tensor, scale: Tensor, into: Tensor, powers: Tensor, decoded: Tensor
    ) -> None:
        """Write the codes of some numbers, packed; what they are read as is taken from these."""
        unit = (scale * self.step).masked_fill(scale == 0, math.inf)
        digits = (left / unit).round_().clamp_(-self.half, self.half).add_(self.half)
        if rest := -left.numel() % self.each:
            digits = pad(digits, (0, rest))
        # What is not a number gets any code that there is.
        codes = torch.mv(digits.view(-1, self.each), powers).int().clamp_(0, len(decoded) - 1)
        found = decoded.index_select(0, codes).view(-1)[: left.numel()]
        into.copy_(codes)
        left.sub_(found.mul_(scale))

    def read(self, leaf: Leaf, start: int, stop: int) -> Tensor:
        if not leaf.opened:
            leaf.opened["packed"] = self._opened(leaf)
        first = start // self.each
        packed = leaf.opened["packed"][first : -(-stop // self.each)]
        found = self.decoded.to(packed.device).index_select(0, packed.int())
        scale = numbers(leaf.parts[""], torch.float32, 0, SCALE)
        return found.view(-1)[start - first * self.each : stop - first * self.each].mul_(scale)

    def _opened(self, leaf: Leaf) -> Tensor:
        """The packed codes.

        Raises:
            ValueError: what was sent is malformed.
        """
        sent = leaf.parts[""]
        packed = _decompressed(sent[SCALE:].cpu().numpy(), self.packed_bytes(leaf.numel()))
        if packed.size and packed.max() >= self.levels**self.each:
            raise ValueError("holds a code of no level")
        return torch.from_numpy(packed).to(sent.device)

    def fault(self, leaf: Leaf) -> str | None:
        if leaf.parts[""].numel() < SCALE:
            return "has no scale"
        try:
            leaf.opened["packed"] = self._opened(leaf)
        except ValueError as error:
            return str(error)
        scale = float(numbers(leaf.parts[""], torch.float32, 0, SCALE))
        is_sound = math.isfinite(scale) and (scale == 0 or scale >= scales.LEAST)
        return None if is_sound else "its scale is negative, too small or not finite"


def _compressed(packed: np.ndarray) -> np.ndarray:
    compressor = zstandard.ZstdCompressor(level=1, write_checksum=False)
    return np.frombuffer(compressor.compress(packed.data), dtype=np.uint8).copy()


def _decompressed(frame: np.ndarray, size: int) -> np.ndarray:
    """A row of so many bytes.

    Raises:
        ValueError: the frame is not of such a row.
    """
    data = frame.tobytes()
    try:
        # The size that a frame names is what is reserved for it, whatever else is asked for.
        if zstandard.get_frame_parameters(data).content_size != size:
            raise ValueError(f"is compressed, but not from {size} bytes")
        found = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"cannot be decompressed: {error}") from None
    if len(found) != size:
        raise ValueError(f"is compressed, but not from {size} bytes")
    return np.frombuffer(found, dtype=np.uint8).copy()


def uniform(step: int, levels: int) -> Codec:
    """`levels` at a distance of `step` hundredths of the root of a tensor's mean square.

    Raises:
        ValueError: no odd number of levels from 3 to 255, or a step that is out of proportion:
            levels end below that root. What is beyond them is read as their end, and where that is
            most of a tensor, what is fed back is read many times too large.
    """
    if levels % 2 == 0 or not 3 <= levels <= 255 or step > 1000:
        raise ValueError(
            f"step {step} with {levels} levels: expected up to 1000 (hundredths of the root of the "
            "mean square), and an odd number of levels from 3 to 255"
        )
    if step * (half := levels // 2) < 100:
        raise ValueError(
            f"step {step} with {levels} levels: the largest level, at {step * half} hundredths of "
            f"the root of the mean square, expected 100 or more; give a step from "
            f"{-(-100 // half)} on, or more levels"
        )
    own = Even(step / 100, levels)
    gain = 2 + 1 / math.sqrt(1 - own.odds[0])
    squares = roots(ROOTS_2 if levels <= 5 else ROOTS_4, 64)
    return Codec(own.encode, own.read, own.fault, squares=squares, most=own.most, gain=gain)
