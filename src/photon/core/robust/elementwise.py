"""Merging each element for itself: the median, and the mean without the ends.

Every client counts alike, whatever it says of its tokens. Where fewer than half lie, or no more
than are cut away, each element lies between the least and the greatest that the others have sent.
Source: Yin et al. 2018, arXiv:1803.01498.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from photon.core.aggregate import Mixing, Mixture
from photon.core.robust.network import exchange, selecting
from photon.core.tree import Readable


class Middle:
    """A `photon.core.aggregate.Reduction`: the mean of what is left of each column without so many
    at each end.

    The sum is float32, in an order that follows from that of the rows: off by 6e-8 of the largest
    for each summand.
    """

    def __init__(self, count: int, cut: int) -> None:
        self._kept = slice(cut, count - cut)
        self._comparisons = selecting(count, cut) if cut else ()
        self._memory = torch.empty(0)

    def __call__(self, rows: Sequence[Tensor]) -> Tensor:
        is_short = all(row.dtype == torch.bfloat16 for row in rows)
        kept = self._short(rows) if is_short else iter(self._placed(rows, torch.float32))
        found, count = next(kept), 1
        for row in kept:
            found.add_(row)
            count += 1
        return found.div_(count) if count > 1 else found

    def _placed(self, rows: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """What is kept of each column, in memory of its own."""
        *own, spare = self._rows(len(rows) + 1, len(rows[0]), dtype).unbind()
        if dtype == torch.int16:
            for row, into in zip(rows, own, strict=True):
                _order(row, into)
        else:
            torch._foreach_copy_(own, list(rows))
        return exchange(own, spare, self._comparisons)[self._kept]

    def _short(self, rows: Sequence[Tensor]) -> Iterator[Tensor]:
        """The same of bf16, whose bits are compared as whole numbers: in half the memory, and in
        half the time.
        """
        bits = [row.view(torch.int16) for row in rows]
        for row in self._placed(bits, torch.int16):
            yield _order(row, torch.empty_like(row)).view(torch.bfloat16).float()

    def _rows(self, count: int, elements: int, dtype: torch.dtype) -> Tensor:
        """Memory that is kept from piece to piece."""
        if self._memory.numel() < count * elements:
            self._memory = torch.empty(count * elements)
        return self._memory.view(dtype)[: count * elements].view(count, elements)


def _order(bits: Tensor, into: Tensor) -> Tensor:
    """Make whole numbers of the bits of bf16 that lie as these do, or bits of such numbers: of what
    is below zero, the larger magnitude is the lower.
    """
    torch.bitwise_right_shift(bits, 15, out=into)
    return torch.bitwise_xor(into.bitwise_and_(0x7FFF), bits, out=into)


def median(trees: Sequence[Readable], weights: Sequence[float], tables: Collection[str]) -> Mixture:
    """The median of each element; of an even number, the mean of the two in the middle."""
    return Mixture(reduce=Middle(len(trees), (len(trees) - 1) // 2))


def trimmed_mean(cut: int) -> Mixing:
    """The mean of each element without so many percent of the clients at each end, rounded down; at
    least one stays.
    """

    def mixing(
        trees: Sequence[Readable], weights: Sequence[float], tables: Collection[str]
    ) -> Mixture:
        count = len(trees)
        return Mixture(reduce=Middle(count, min(count * cut // 100, (count - 1) // 2)))

    return mixing
