"""The inner products of pseudo-gradients: all that lengths, distances and angles between them, and
between their means, follow from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from photon.core import aggregate
from photon.core.tree import Readable, read, spans

RUN_ELEMENTS = 1 << 11
"""One matrix product of two very long rows would not be shared among the cores."""


def gram(trees: Sequence[Readable]) -> Tensor:
    """The inner product of every two of some trees, all leaves together.

    One pass over them, a block at a time. Runs of elements are summed in float32, or where its
    range does not hold them in float64, and these sums in float64 and in the order of the leaves:
    to about six digits of the product of two lengths. The same trees in the same order give the
    same bits.

    Returns:
        [trees, trees], float64, symmetric.

    Raises:
        ValueError: no trees.
    """
    if not trees:
        raise ValueError("inner products need a tree at least")
    none = torch.zeros(len(trees), len(trees), dtype=torch.float64)
    sums = sum(map(_products, _blocks(trees)), none)
    upper = sums.triu()
    return upper + upper.triu(1).T


def _products(rows: Tensor) -> Tensor:
    """[trees, trees], float64, of which the upper half counts."""
    found = _summed(rows)
    squares = found.diag()
    is_doubtful = ~((squares > 1e-30) & (squares < 1e30))
    return _summed(rows.double()) if rows[is_doubtful].any() else found


def _summed(rows: Tensor) -> Tensor:
    """The products of short runs of elements, which all cores make side by side, in their type, and
    their sum.
    """
    whole = rows.shape[1] // RUN_ELEMENTS * RUN_ELEMENTS
    runs = rows[:, :whole].unflatten(1, (-1, RUN_ELEMENTS)).transpose(0, 1)
    rest = rows[:, whole:]
    found = torch.bmm(runs, runs.transpose(1, 2)).sum(0, dtype=torch.float64)
    return found.add_(rest @ rest.T)


def _blocks(trees: Sequence[Readable]) -> Iterator[Tensor]:
    """The same elements of all trees, [trees, elements], float32; the memory is used again."""
    size = aggregate.piece_elements(len(trees))
    memory = torch.empty(len(trees) * size)
    for name, start, stop in spans(trees[0], size):
        rows = memory[: len(trees) * (stop - start)].view(len(trees), stop - start)
        torch._foreach_copy_(rows.unbind(), [read(tree[name], start, stop) for tree in trees])
        yield rows
