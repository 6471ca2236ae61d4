"""Merging each element for itself: the median, and the mean without the ends.

Every client counts alike, whatever it says of its tokens. Where fewer than half lie, or no more
than are cut away, each element lies between the least and the greatest that the others have sent.
Source: Yin et al. 2018, arXiv:1803.01498.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from photon.core.aggregate import Mixing, Mixture
from photon.core.robust.network import exchange, selecting
from photon.core.tree import Readable


class Middle:
    """A `photon.core.aggregate.Reduction`: the mean of what is left of each column without so many
    at each end.

    The sum is float32, from the lowest: off by 6e-8 of the largest for each summand.
    """

    def __init__(self, count: int, cut: int) -> None:
        self._kept = slice(cut, count - cut)
        self._comparisons = selecting(count, cut, count - cut) if cut else ()
        self._memory = torch.empty(0)

    def __call__(self, rows: Tensor) -> Tensor:
        *own, spare = self._rows(*rows.shape)
        torch._foreach_copy_(own, rows.unbind())
        lowest, *others = exchange(own, spare, self._comparisons)[self._kept]
        for row in others:
            lowest.add_(row)
        return lowest.div_(1 + len(others)) if others else lowest

    def _rows(self, count: int, elements: int) -> tuple[Tensor, ...]:
        """Memory for rows and one more, kept from piece to piece."""
        if self._memory.numel() < (count + 1) * elements:
            self._memory = torch.empty((count + 1) * elements)
        return self._memory[: (count + 1) * elements].view(count + 1, elements).unbind()


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
