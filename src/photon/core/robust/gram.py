"""The inner products of pseudo-gradients: all that lengths, distances and angles between them, and
between their means, follow from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from photon.core import aggregate
from photon.core.tree import Readable, dots, read, spans


def gram(trees: Sequence[Readable]) -> Tensor:
    """The inner product of every two of some trees, all leaves together.

    One pass over them, a block at a time. Blocks are summed in float32, or where its range does not
    hold them in float64, and these sums in float64 and in the order of the leaves: to about six
    digits of the product of two lengths. The same trees in the same order give the same bits.

    Returns:
        [trees, trees], float64, symmetric.

    Raises:
        ValueError: no trees.
    """
    if not trees:
        raise ValueError("inner products need a tree at least")
    count = len(trees)
    sums = torch.zeros(count * (count + 1) // 2, dtype=torch.float64)
    for rows in _blocks(trees):
        found = [product for at in range(count) for product in dots(rows[at:], rows[at])]
        sums += torch.tensor(found, dtype=torch.float64)
    products = torch.empty(count, count, dtype=torch.float64)
    row, column = torch.triu_indices(count, count)
    products[row, column] = products[column, row] = sums
    return products


def _blocks(trees: Sequence[Readable]) -> Iterator[Tensor]:
    """The same elements of all trees, [trees, elements], float32; the memory is used again."""
    size = aggregate.piece_elements(len(trees))
    memory = torch.empty(len(trees) * size)
    for name, start, stop in spans(trees[0], size):
        rows = memory[: len(trees) * (stop - start)].view(len(trees), stop - start)
        torch._foreach_copy_(rows.unbind(), [read(tree[name], start, stop) for tree in trees])
        yield rows
