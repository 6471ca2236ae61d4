"""The codec that sends the largest elements of each block, and their places."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from photon.codecs import golomb, scales
from photon.codecs.grids import SIGNS, TAIL, Grid
from photon.codecs.packing import pack, unpack
from photon.codecs.pieces import PIECE, checked, numbers, pieces, rows
from photon.core.codec import Codec, Leaf, Parts

COUNT = 4
"""Bytes of the number of places."""


@dataclass(frozen=True)
class Largest:
    """How a tensor is sent: a row of bytes with the numbers of its groups of blocks, how many
    places there are, the scales, the values, the places.

    Attributes:
        kept: elements of a block that are sent at the most.
        block: elements.
    """

    grid: Grid
    kept: int
    block: int

    @property
    def group(self) -> int:
        """Blocks of a group."""
        return PIECE // self.block

    def most_places(self, numel: int) -> int:
        """Of a tensor of so many elements; a short block has them in proportion."""
        whole, rest = divmod(numel, self.block)
        return whole * self.kept + -(-rest * self.kept // self.block)

    def begins(self, numel: int) -> tuple[int, int, int]:
        """Where the number of places, the scales and the values begin."""
        blocks = -(-numel // self.block)
        count = 4 * -(-blocks // self.group)
        return count, count + COUNT, count + COUNT + blocks

    def most(self, shape: torch.Size) -> dict[str, int]:
        numel = math.prod(shape)
        places = self.most_places(numel)
        values = -(-places * self.grid.bits // 8)
        return {"": self.begins(numel)[-1] + values + golomb.most_bytes(places, numel)}

    def expected(self, numel: int) -> int:
        places = self.most_places(numel)
        values = -(-places * self.grid.bits // 8)
        return self.begins(numel)[-1] + values + golomb.expected_bytes(places, numel)

    def encode(self, value: Tensor, residual: Tensor | None) -> tuple[Parts, Tensor | None]:
        flat = value.reshape(-1)
        if flat.is_meta:
            sent = flat.new_empty(self.expected(flat.numel()), dtype=torch.uint8)
            return {"": sent}, torch.empty_like(value)
        left = flat.clone() if residual is None else residual.reshape(-1).add_(flat)
        found = [self._choose(left, at) for at in pieces(flat)]
        empty = flat.new_empty(0)
        bases, codes, near, places = (
            torch.cat(each) for each in zip(*found, strict=True)
        ) if found else (empty.int(), empty.byte(), empty.byte(), empty.long())  # fmt: skip
        written = golomb.write(places.cpu().numpy(), flat.numel())
        count = torch.tensor([len(places)], dtype=torch.int32)
        parts = [bases, count, codes, pack(near, self.grid.bits), torch.from_numpy(written)]
        sent = torch.cat([part.to(flat.device).view(torch.uint8) for part in parts])
        return {"": sent}, left.view(value.shape)

    def _choose(self, left: Tensor, at: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is sent of some whole groups, or of the last one: numbers of groups, scales, values
        and places. It is taken away from what is left.
        """
        columns, values = self._picked(left[at])
        groups = max(1, len(values) // self.group)
        sizes = values.abs().sum(1) / values.count_nonzero(1).clamp(min=1)
        scale = scales.settle_(sizes.view(groups, -1)).view(-1, 1)
        bases, codes = scales.coded(scale.view(groups, -1))
        first = torch.arange(at.start, at.stop, self.block, device=left.device)[:, None]
        # Something of what is not a number must be sent, so that it is refused.
        is_sent = (values != 0) & (scale != 0)
        places, each, found = _where(is_sent, first + columns, scale.expand_as(values), values)
        found = found / each
        near = torch.empty_like(found, dtype=torch.uint8)
        self.grid.round_(found.div_(self.grid.unit), near)
        left.index_add_(0, places, found.mul_(each * self.grid.unit), alpha=-1)
        return bases, codes, near, places

    def _picked(self, part: Tensor) -> tuple[Tensor, Tensor]:
        """[blocks, kept]: columns of the largest, ascending, and their values; of a short block
        some are zero.
        """
        blocks = rows(part, self.block)
        sizes = blocks.abs()
        columns = largest(sizes, self.kept)
        columns[-1] = sizes[-1].topk(self.kept).indices
        values = blocks.gather(1, columns)
        values[-1, self.most_places(len(part)) - (len(blocks) - 1) * self.kept :] = 0
        columns, order = columns.sort(dim=1)
        return columns, values.gather(1, order)

    def read(self, leaf: Leaf, start: int, stop: int) -> Tensor:
        if not leaf.opened:
            leaf.opened["places"], leaf.opened["values"] = self._opened(leaf)
        places, values = leaf.opened["places"], leaf.opened["values"]
        span = torch.tensor([start, stop], device=places.device)
        first, last = torch.searchsorted(places, span).tolist()
        found = torch.zeros(stop - start, device=places.device)
        found[places[first:last] - start] = values[first:last]
        return found

    def _opened(self, leaf: Leaf) -> tuple[Tensor, Tensor]:
        """Places and values of what was sent.

        Raises:
            ValueError: what was sent is malformed.
        """
        places = self._places(leaf)
        if places is None:
            raise ValueError("its places are not such of elements in ascending order")
        sent = leaf.parts[""]
        to_count, to_scales, to_values = self.begins(leaf.numel())
        bases = numbers(sent, torch.int32, 0, to_count)
        scale = scales.decoded(bases, sent[to_scales:to_values], self.group)
        after = to_values + -(-len(places) * self.grid.bits // 8)
        near = unpack(sent[to_values:after], self.grid.bits)[: len(places)]
        unit = scale[places // self.block].mul_(self.grid.unit)
        return places, self.grid.levels(near).mul_(unit)

    def _places(self, leaf: Leaf) -> Tensor | None:
        sent = leaf.parts[""]
        to_count, to_scales, to_values = self.begins(leaf.numel())
        count = int(numbers(sent, torch.int32, to_count, to_scales))
        after = to_values + -(-count * self.grid.bits // 8)
        if not 0 <= count <= self.most_places(leaf.numel()) or after > sent.numel():
            return None
        found = golomb.read(sent[after:].cpu().numpy(), count, leaf.numel())
        return None if found is None else torch.from_numpy(found).to(sent.device)

    def fault(self, leaf: Leaf) -> str | None:
        sent = leaf.parts[""]
        to_count, _, to_values = self.begins(leaf.numel())
        if sent.numel() < to_values:
            return f"has {sent.numel()} bytes, at least {to_values} were expected"
        if reason := scales.fault(numbers(sent, torch.int32, 0, to_count)):
            return reason
        try:
            leaf.opened["places"], leaf.opened["values"] = self._opened(leaf)
        except ValueError as error:
            return str(error)
        return None


def _where(mask: Tensor, *values: Tensor) -> list[Tensor]:
    """What a mask selects of each [rows, columns], in a row; no search where it selects all."""
    if mask.all():
        return [each.reshape(-1) for each in values]
    return [each[mask] for each in values]


def largest(sizes: Tensor, count: int) -> Tensor:
    """[rows, count]: columns of the largest of each row, in any order.

    A row is looked at in parts. The `count` largest are in the `count` parts with the largest
    maxima, so only these are looked at twice. Among equal ones any are taken.
    """
    width = sizes.shape[1]
    part = 1 << max(0, round(math.log2(width / max(1, count)) / 2))
    parts = width // part
    if part == 1 or parts < count:
        return sizes.topk(count, dim=1, sorted=False).indices
    lying = sizes.view(-1, part, parts)
    chosen = lying.amax(1).topk(count, dim=1, sorted=False).indices
    found = lying.gather(2, chosen[:, None].expand(-1, part, -1)).view(-1, part * count)
    own = found.topk(count, dim=1, sorted=False).indices
    return own // count * parts + chosen.gather(1, own % count)


def topk(kept: int, block: int, bits: int) -> Codec:
    """The `kept` largest of each `block`, by sign and magnitude in 2 bits or by sign in 1.

    Raises:
        ValueError: numbers that do not go together.
    """
    if not kept <= checked(block) or bits not in (1, 2):
        raise ValueError(
            f"top {kept} of {block} in {bits} bits: expected no more than all, in 1 or 2 bits"
        )
    own = Largest(SIGNS if bits == 1 else TAIL, kept, block)
    gain = 1 + math.sqrt(block / kept)
    return Codec(own.encode, own.read, own.fault, most=own.most, gain=gain, is_dense=False)
