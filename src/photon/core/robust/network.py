"""The middle of a few numbers, for very many such few at once: a sorting network of rows.

Whatever the numbers are, a network compares the same pairs, so that each comparison is one minimum
and one maximum of two rows, with all lanes of all cores; a sort of each column of its own takes
twenty times as long. What lies in the middle is wanted as a set, for its mean.
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
    """The comparisons that sort so many: the pairwise network, which sorts in as many as odd-even
    merges, and of which fewer are left where only a part is wanted.

    Source: Parberry 1992, The pairwise sorting network.
    """
    whole = range(1 << max(0, count - 1).bit_length())  # larger ones beyond the end stay there
    return ((lower, upper) for lower, upper in _pairwise(whole) if upper < count)


def _pairwise(places: range) -> Iterator[tuple[int, int]]:
    """Those that sort a power of two of places."""
    if len(places) < 2:
        return
    yield from zip(places[::2], places[1::2], strict=True)
    yield from _pairwise(places[::2])
    yield from _pairwise(places[1::2])
    width = len(places) // 2
    while width > 1:
        yield from zip(places[1::2], places[width::2], strict=False)
        width //= 2


def separating(count: int, cut: int) -> Iterator[tuple[int, int]]:
    """The comparisons that bring the lowest and the highest `cut` to the ends.

    Of two sorted halves a and b, the lowest `cut` are the smaller of each a[i] and b[cut - 1 - i],
    so that no merge is needed.
    """
    half = count // 2
    if 2 * cut > half:
        yield from sorting(count)
        return
    yield from sorting(half)
    yield from ((half + lower, half + upper) for lower, upper in sorting(count - half))
    yield from ((at, half + cut - 1 - at) for at in range(cut))
    yield from ((half - 1 - at, count - cut + at) for at in range(cut))


@cache
def selecting(count: int, cut: int) -> tuple[Exchange, ...]:
    """The comparisons after which the places from `cut` up to `count - cut` hold, in no order, all
    but the lowest and the highest `cut`; whatever these do not depend on is left out.
    """
    needed = set(range(cut, count - cut))
    unordered, found = set(needed), []
    for lower, upper in reversed(list(separating(count, cut))):
        has = Exchange(lower, upper, lower in needed, upper in needed)
        if unordered.issuperset((lower, upper)) or not (has.has_lower or has.has_upper):
            continue
        found.append(has)
        needed |= {lower, upper}
        unordered -= {lower, upper}
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
