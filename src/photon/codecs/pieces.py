"""How a tensor is cut: elements into blocks, each with a scale, and blocks into groups."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

PIECE = 1 << 18
"""Elements of a group of blocks."""
WORK = 1 << 20
"""Elements that are worked on at once on a CPU, some groups: few enough for its caches, and so many
that it is not the calls that take the time.
"""


def checked(block: int) -> int:
    """The elements of a block, if so many fill bytes and groups.

    Raises:
        ValueError: they do not.
    """
    if block < 8 or block & (block - 1) or block > PIECE:
        raise ValueError(f"blocks of {block} elements: expected a power of two from 8 to {PIECE}")
    return block


def pieces(flat: Tensor, unit: int = PIECE) -> Iterator[slice]:
    """A row in pieces of as many whole units as are good for the device; the rest is last."""
    start, numel = 0, 0 if flat.is_meta else flat.numel()
    while start < numel:
        most = numel - start
        if flat.device.type == "cpu":
            most = min(most, WORK)
        stop = start + (most - most % unit or most)
        yield slice(start, stop)
        start = stop


def rows(part: Tensor, block: int) -> Tensor:
    """[blocks, elements] of a row, the last filled with zeros; the row itself where it is whole."""
    rest = -part.numel() % block
    return (pad(part, (0, rest)) if rest else part).view(-1, block)


def write(sent: Tensor, parts: dict[int, Tensor]) -> None:
    """Write what belongs at places of a row of bytes."""
    for begin, part in parts.items():
        raw = part.view(torch.uint8)
        sent[begin : begin + raw.numel()] = raw


def numbers(sent: Tensor, dtype: torch.dtype, start: int, stop: int) -> Tensor:
    """Numbers of another type from a row of bytes; they need not lie where such numbers may."""
    return sent[start:stop].clone().view(dtype)
