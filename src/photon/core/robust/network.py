"""The middle of a few numbers, for very many such few at once: a sorting network of rows.

Whatever the numbers are, a network compares the same pairs, so that each comparison is one minimum
and one maximum of two rows, with all lanes of all cores; a sort of each column of its own takes
twenty times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


class Exchange(NamedTuple):
    """A comparison: the smaller of two goes to the place of the lower, the larger to the upper.

    Attributes:
        has_lower, has_upper: whether anything depends on it.
    """

    lower: int
    upper: int
    has_lower: bool = True
    has_upper: bool = True


def sorting(count: int) -> Iterator[tuple[int, int]]:
    """The comparisons that sort so many: odd-even merges.

    Source: Batcher 1968, Sorting networks and their applications; as in Knuth, volume 3, 5.2.2 M.
    """
    top = 1 << max(0, count - 1).bit_length() >> 1
    width = top
    while width:
        last, offset, distance = top, 0, width
        while True:
            yield from (
                (at, at + distance) for at in range(count - distance) if at & width == offset
            )
            if last == width:
                break
            distance, last, offset = last - width, last >> 1, width
        width >>= 1


@cache
def selecting(count: int, first: int, stop: int) -> tuple[Exchange, ...]:
    """The comparisons after which the places from `first` up to `stop` are as if sorted; whatever
    these do not depend on is left out.
    """
    needed, found = set(range(first, stop)), []
    for lower, upper in reversed(list(sorting(count))):
        has = Exchange(lower, upper, lower in needed, upper in needed)
        if has.has_lower or has.has_upper:
            found.append(has)
            needed |= {lower, upper}
    return tuple(reversed(found))


def exchange(
    rows: Sequence[Tensor], spare: Tensor, comparisons: Sequence[Exchange]
) -> list[Tensor]:
    """The rows in their new places: the comparisons made in their memory and in that of a spare."""
    placed = list(rows)
    for lower, upper, has_lower, has_upper in comparisons:
        low, up = placed[lower], placed[upper]
        if has_lower and has_upper:
            torch.minimum(low, up, out=spare)
            torch.maximum(low, up, out=up)
            placed[lower], spare = spare, low
        elif has_lower:
            torch.minimum(low, up, out=low)
        else:
            torch.maximum(low, up, out=up)
    return placed
