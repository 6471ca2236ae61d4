"""The mean of a round's updates, at once or in parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from photon.core.codec import Codec, Codecs, encode, leaves
from photon.core.device_time import OF_CLIENTS
from photon.core.messages import Update
from photon.core.tree import Readable, Tree, read, spans, summing_type

Result = TypeVar("Result")

MOST_ELEMENTS = 1 << 18
"""Of a piece: it stays in the caches of the cores between two operations."""
BLOCK_BYTES = 8 << 20
"""Of the same elements of all updates, side by side."""
BLOCKS_KEPT = 8
"""Most sizes of a block that are kept: ends of leaves, and short leaves, have their own."""
FEWEST_ELEMENTS = 1 << 12
"""With fewer, an operation's own time is longer than that of its numbers."""


class Piece(NamedTuple):
    """The mean of a few neighbouring elements of a leaf.

    Attributes:
        at: of the flattened leaf.
        rows: [trees, elements], what it is the mean of.
        mean: [elements], float32; whoever gets it may write into it.
    """

    name: str
    at: slice
    rows: Tensor
    mean: Tensor


def mean_by_piece(
    trees: Sequence[Readable], weights: Sequence[float], take: Callable[[Piece], Result]
) -> list[tuple[str, Result]]:
    """Weighted mean, piece by piece: sum_k w_k x_k / sum_k w_k.

    The sum runs in the order of `trees`, so the caller fixes the bits by fixing the order. It is
    float32 for numbers of 16 bits, where it is exact for equal weights unless numbers are thousands
    of times apart, and within a unit in the last place for each tree in any case; else float64.
    Leaves may be encoded, lazy or memory-mapped. The memory is a block.

    Args:
        take: gets each piece, whose memory is used again.

    Returns:
        What came of each piece, with its leaf, in the order of the leaves.

    Raises:
        ValueError: no trees, or weights that do not sum to a positive number.
    """
    total = float(sum(weights))
    if not trees or not total > 0:
        raise ValueError(f"a mean needs a positive total weight, got {list(weights)}")
    averaging = _Averaging(trees, weights)
    size = max(FEWEST_ELEMENTS, min(BLOCK_BYTES // (4 * len(trees)), MOST_ELEMENTS))
    return [(span[0], take(averaging.piece(*span))) for span in spans(trees[0], size)]


class _Averaging:
    """Gives the mean of the pieces of some trees."""

    def __init__(self, trees: Sequence[Readable], weights: Sequence[float]) -> None:
        self._trees = trees
        # A power of two costs no bits, and with it no sum is larger than the largest summand.
        unit = max(weights) * 2.0 ** math.ceil(math.log2(len(trees)))
        self._weights = torch.tensor([weight / unit for weight in weights], dtype=torch.float64)
        self._total = float(self._weights.sum())
        self._blocks: dict[tuple[int, torch.dtype], _Block] = {}

    def piece(self, name: str, start: int, stop: int) -> Piece:
        parts = [read(tree[name], start, stop) for tree in self._trees]
        dtype = max((summing_type(p.dtype) for p in parts), key=lambda kind: kind.itemsize)
        block = self._block(stop - start, dtype)
        torch._foreach_copy_(block.each, parts)
        torch.mv(block.columns, block.weights, out=block.sum)
        block.sum.div_(self._total)
        if block.mean is not block.sum:
            block.mean.copy_(block.sum)
        return Piece(name, slice(start, stop), block.rows, block.mean)

    def _block(self, size: int, dtype: torch.dtype) -> _Block:
        if (size, dtype) not in self._blocks:
            if len(self._blocks) == BLOCKS_KEPT:
                self._blocks.clear()
            self._blocks[size, dtype] = _Block(size, self._weights.to(dtype))
        return self._blocks[size, dtype]


class _Block:
    """Memory for the same elements of all trees, and for their mean."""

    def __init__(self, size: int, weights: Tensor) -> None:
        self.weights = weights
        self.rows = torch.empty(len(weights), size, dtype=weights.dtype)
        self.each = self.rows.unbind()
        self.columns = self.rows.t()
        self.sum = torch.empty(size, dtype=weights.dtype)
        self.mean = self.sum if weights.dtype == torch.float32 else torch.empty(size)


def weighted_mean(trees: Sequence[Readable], weights: Sequence[float]) -> dict[str, Tensor]:
    """Weighted mean of whole trees, as `mean_by_piece` makes it.

    Returns:
        float32 leaves of the same names and shapes.

    Raises:
        ValueError: no trees, or weights that do not sum to a positive number.
    """
    first = trees[0] if trees else {}
    mean = {name: torch.empty(value.shape) for name, value in first.items()}
    _write_mean(mean, trees, weights)
    return mean


def _write_mean(into: Tree, trees: Sequence[Readable], weights: Sequence[float]) -> None:
    def write(piece: Piece) -> None:
        into[piece.name].view(-1)[piece.at].copy_(piece.mean)

    mean_by_piece(trees, weights, write)


def encoded_mean(
    trees: Sequence[Readable], weights: Sequence[float], codec: Codec, before: Tree
) -> dict[str, Tensor]:
    """The weighted mean as it is sent; what its codec loses is not fed back.

    A mean of moments replaces the last one: errors do not add up.

    Args:
        before: what was sent the last time, or nothing; it is written over where that can be.
    """
    sent: dict[str, Tensor] = {}
    if codec.cast is None:
        for name in trees[0]:
            alone = [cast(Readable, {name: tree[name]}) for tree in trees]
            sent |= encode(weighted_mean(alone, weights), codec)[0]
        return sent
    for name, like in trees[0].items():
        old = before.get(name)
        if old is None or (old.shape, old.dtype) != (like.shape, codec.cast):
            old = torch.empty(like.shape, dtype=codec.cast)
        sent[name] = old
    _write_mean(sent, trees, weights)
    return sent


def fold(updates: Sequence[Update], like: Tree, codecs: Codecs) -> Update:
    """The updates of one node as one: their weighted mean in fp32, with the summed weight.

    The mean of such means is the mean of all, to the rounding of fp32.

    Args:
        like: tensors with the shapes of the parameters.
        codecs: of the updates.

    Raises:
        ValueError: no updates.
    """
    ordered = sorted(updates, key=lambda update: update.client)
    weights = [float(update.num_tokens) for update in ordered]

    def mean(trees: Iterable[Tree], codec: Codec) -> dict[str, Tensor]:
        return weighted_mean([leaves(tree, like, codec) for tree in trees], weights)

    gradient = mean((update.gradient for update in ordered), codecs.gradient)
    moments = {
        name: mean((update.moments[name] for update in ordered), codecs.of_moment(name))
        for name in ordered[0].moments
    }
    shared = set.intersection(*(set(update.metrics) for update in ordered))
    return replace(
        ordered[0],
        gradient=gradient,
        moments=moments,
        num_tokens=sum(update.num_tokens for update in ordered),
        num_steps=max(update.num_steps for update in ordered),
        metrics={key: _folded(key, ordered, weights) for key in sorted(shared)},
        state_lost=any(update.state_lost for update in ordered),
        covers=tuple(update.client for update in ordered),
    )


def _folded(key: str, updates: Sequence[Update], weights: Sequence[float]) -> float:
    """The mean of a metric; the seconds of a device that clients share add up."""
    if key in OF_CLIENTS.values():
        return sum(update.metrics[key] for update in updates)
    weighted = zip(updates, weights, strict=True)
    return sum(update.metrics[key] * weight for update, weight in weighted) / sum(weights)
