"""The inner products of pseudo-gradients: all that lengths, distances and angles between them, and
between their means, follow from.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from photon.core.aggregate import Piece, mean_by_piece
from photon.core.tree import Readable, dots


def gram(trees: Sequence[Readable]) -> Tensor:
    """The inner product of every two of some trees, all leaves together.

    One pass over them, a block at a time. Pieces are summed as `core.tree.dot` does it, their sums
    in float64 and in the order of the leaves: to about six digits of the product of two lengths.
    The same trees in the same order give the same bits.

    Returns:
        [trees, trees], float64, symmetric.

    Raises:
        ValueError: no trees.
    """
    count = len(trees)

    def take(piece: Piece) -> list[float]:
        return [x for row in range(count) for x in dots(piece.rows[row:], piece.rows[row])]

    sums = torch.zeros(count * (count + 1) // 2, dtype=torch.float64)
    for _, found in mean_by_piece(trees, [1.0] * count, take):
        sums += torch.tensor(found, dtype=torch.float64)
    products = torch.empty(count, count, dtype=torch.float64)
    row, column = torch.triu_indices(count, count)
    products[row, column] = products[column, row] = sums
    return products
