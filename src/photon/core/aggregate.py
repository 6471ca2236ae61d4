"""What a round's updates are merged into, at once or in parts: their mean, or something else.

A mixing says how each leaf is merged: into a weighted mean times a factor, or into what a function
makes of the same few elements of all of them; so that one pass does it, whatever the rule. One of
one's own is a function and an entry in `photon.points`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from photon.core.codec import Codec, Codecs, encode, leaves
from photon.core.device_time import OF_CLIENTS
from photon.core.messages import Update
from photon.core.tree import Readable, Tree, dot, read, spans, summing_type

Result = TypeVar("Result")

MOST_ELEMENTS = 1 << 18
"""Of a piece: it stays in the caches of the cores between two operations."""
BLOCK_BYTES = 16 << 20
"""Of the same elements of all updates, side by side."""
BLOCKS_KEPT = 8
"""Most sizes of a block that are kept: ends of leaves, and short leaves, have their own."""
FEWEST_ELEMENTS = 1 << 12
"""With fewer, an operation's own time is longer than that of its numbers."""
CANCELLED = 1e-5
"""Length of a mean of unit vectors below which it is rounding, and no direction."""


class Mix(NamedTuple):
    """How a leaf is merged: so many times the mean by these weights."""

    weights: Sequence[float]
    factor: float


Reduction = Callable[[Sequence[Tensor]], Tensor]
"""Gives what rows are merged into, element by element: [elements], float32, of a row of each tree
in any float type, which it leaves as they are. What it gave before may be written over."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """How the pseudo-gradients of a round are merged.

    Attributes:
        leaves: those that are merged in a way of their own.
        mean_norm: Euclidean norm of the plain mean; None if the mean is what they are merged into,
            or if it is measured while they are reduced.
        weights: of the mean of the others, and of moments; None: those of the updates.
        reduce: what the others, and moments, are merged by in place of a mean.
        noise: what is added to a piece of what they are merged into, in place, before it is used.
    """

    leaves: Mapping[str, Mix] = field(default_factory=dict)
    mean_norm: float | None = None
    weights: Sequence[float] | None = None
    reduce: Reduction | None = None
    noise: Callable[[Piece], None] | None = None

    @property
    def of_moments(self) -> Mixture:
        """How the moments of the same updates are merged."""
        return Mixture(weights=self.weights, reduce=self.reduce)


Mixing = Callable[[Sequence[Readable], Sequence[float], Collection[str]], Mixture]
"""Gives how pseudo-gradients with such weights are merged; the names are those of the embeddings
and the output layer among their leaves. The same trees in the same order give the same bits.
"""
Private = Callable[[Sequence[Update], Sequence[Readable], Sequence[float]], Mixture]
"""Gives how these updates are merged so that no client shows, from their pseudo-gradients as they
are read, and the norms of these.
"""


class Piece(NamedTuple):
    """The mean of a few neighbouring elements of a leaf.

    Attributes:
        at: of the flattened leaf.
        rows: [trees, elements], what it is the mean of.
        mean: [elements], float32, or what they are merged into; whoever gets it may write into it.
        plain: the mean by the weights of the updates, where the rows are reduced to something else.
    """

    name: str
    at: slice
    rows: Tensor
    mean: Tensor
    plain: Tensor | None = None


def mean_by_piece(
    trees: Sequence[Readable],
    weights: Sequence[float],
    take: Callable[[Piece], Result],
    mixture: Mixture = Mixture(),
) -> list[tuple[str, Result]]:
    """Weighted mean, piece by piece: sum_k w_k x_k / sum_k w_k.

    The sum runs in the order of `trees`, so the caller fixes the bits by fixing the order. It is
    float32 for numbers of 16 bits, where it is exact for equal weights unless numbers are thousands
    of times apart, and within a unit in the last place for each tree in any case; else float64.
    Leaves may be encoded, lazy or memory-mapped. The memory is a block.

    Args:
        take: gets each piece, whose memory is used again.
        mixture: how they are merged, if not into that mean.

    Returns:
        What came of each piece, with its leaf, in the order of the leaves.

    Raises:
        ValueError: no trees, or weights that do not sum to a positive number.
    """
    total = float(sum(weights))
    if not trees or not total > 0:
        raise ValueError(f"a mean needs a positive total weight, got {list(weights)}")
    averaging = _Averaging(trees, weights, mixture)
    size = piece_elements(len(trees))
    return [(span[0], take(averaging.piece(*span))) for span in spans(trees[0], size)]


def piece_elements(trees: int) -> int:
    """Elements of a piece of so many trees."""
    return max(FEWEST_ELEMENTS, min(BLOCK_BYTES // (4 * trees), MOST_ELEMENTS))


class _Shares:
    """Weights as the sums take them.

    Attributes:
        by_type: of each tree, by the type of a sum.
    """

    def __init__(self, mix: Mix) -> None:
        # A power of two costs no bits, and with it no sum is larger than the largest summand.
        unit = max(mix.weights) * 2.0 ** math.ceil(math.log2(len(mix.weights)))
        exact = torch.tensor([weight / unit for weight in mix.weights], dtype=torch.float64)
        self.by_type = {kind: exact.to(kind) for kind in (torch.float32, torch.float64)}
        self.total, self.factor = float(exact.sum()), mix.factor


class _Averaging:
    """Gives the mean of the pieces of some trees."""

    def __init__(
        self, trees: Sequence[Readable], weights: Sequence[float], mixture: Mixture
    ) -> None:
        self._trees = trees
        self._rest = _Shares(Mix(mixture.weights or weights, 1.0))
        self._shares = {name: _Shares(mix) for name, mix in mixture.leaves.items()}
        self._reduce = mixture.reduce
        self._blocks: dict[tuple[int, torch.dtype], _Block] = {}

    def piece(self, name: str, start: int, stop: int) -> Piece:
        parts = [read(tree[name], start, stop) for tree in self._trees]
        if self._reduce is None or name in self._shares:
            dtype = max((summing_type(p.dtype) for p in parts), key=lambda kind: kind.itemsize)
        else:  # what travels is float32 at the most, and nothing is lost in a choice
            dtype = torch.float32
        block, shares = self._block(stop - start, dtype), self._shares.get(name, self._rest)
        torch._foreach_copy_(block.each, parts)
        mean, at = self._mean(block, shares), slice(start, stop)
        if self._reduce is None or name in self._shares:
            return Piece(name, at, block.rows, mean)
        return Piece(name, at, block.rows, self._reduce(parts), mean)

    @staticmethod
    def _mean(block: _Block, shares: _Shares) -> Tensor:
        dtype = block.rows.dtype
        torch.mv(block.columns, shares.by_type[dtype], out=block.sum)
        block.sum.div_(shares.total)
        if shares.factor != 1.0:
            block.sum.mul_(shares.factor)
        if block.mean is not block.sum:
            block.mean.copy_(block.sum)
        return block.mean

    def _block(self, size: int, dtype: torch.dtype) -> _Block:
        if (size, dtype) not in self._blocks:
            if len(self._blocks) == BLOCKS_KEPT:
                self._blocks.clear()
            self._blocks[size, dtype] = _Block(size, len(self._trees), dtype)
        return self._blocks[size, dtype]


class _Block:
    """Memory for the same elements of all trees, and for their mean."""

    def __init__(self, size: int, trees: int, dtype: torch.dtype) -> None:
        self.rows = torch.empty(trees, size, dtype=dtype)
        self.each = self.rows.unbind()
        self.columns = self.rows.t()
        self.sum = torch.empty(size, dtype=dtype)
        self.mean = self.sum if dtype == torch.float32 else torch.empty(size)


def plain(trees: Sequence[Readable], weights: Sequence[float], tables: Collection[str]) -> Mixture:
    """The mean of all leaves."""
    return Mixture()


def normed(trees: Sequence[Readable], weights: Sequence[float], tables: Collection[str]) -> Mixture:
    """The mean, as a whole as long as the clients' pseudo-gradients are in the mean.

    Where K of them are nearly orthogonal the mean is shorter by sqrt(K). One that cancels stays.
    """
    if len(trees) == 1:
        return Mixture()
    sizes = _sizes_by_leaf(trees, weights)
    mean, *own = map(math.hypot, *sizes.values())
    longest = _mean_of(own, weights)
    factor = longest / mean if mean > CANCELLED * longest else 1.0
    return Mixture({name: Mix(weights, factor) for name in sizes}, mean)


def radial(trees: Sequence[Readable], weights: Sequence[float], tables: Collection[str]) -> Mixture:
    """Radial-directional averaging: of each leaf the mean of the unit directions, brought to unit
    length, times the mean of the lengths; of tables of embeddings the mean.

    A client whose leaf is zero has no direction, and a length of zero. A leaf whose directions
    cancel is averaged. Source: Decoupled DiLoCo, arXiv:2604.21428.
    """
    if len(trees) == 1:
        return Mixture()
    sizes = _sizes_by_leaf(trees, weights)
    turned = {
        name: Mix([w / n if n > 0 else 0.0 for w, n in zip(weights, own, strict=True)], 1.0)
        for name, (_, *own) in sizes.items()
        if name not in tables and any(own)
    }
    some = [cast(Readable, {name: tree[name] for name in turned}) for tree in trees]
    mixes = {}
    for name, (length, *_) in _sizes_by_leaf(some, weights, Mixture(turned)).items():
        by, own = turned[name].weights, sizes[name][1:]
        if length * sum(by) > CANCELLED * sum(weights):
            mixes[name] = Mix(by, _mean_of(own, weights) / length)
    return Mixture(mixes, math.hypot(*(mean for mean, *_ in sizes.values())))


def _mean_of(numbers: Sequence[float], weights: Sequence[float]) -> float:
    return sum(w * n for w, n in zip(weights, numbers, strict=True)) / sum(weights)


def _sizes_by_leaf(
    trees: Sequence[Readable], weights: Sequence[float], mixture: Mixture = Mixture()
) -> dict[str, list[float]]:
    """Euclidean norms of each leaf: of what it is merged into, and of each tree."""
    squares = {name: [0.0] * (1 + len(trees)) for name in trees[0]}

    def take(piece: Piece) -> list[float]:
        return [dot(row, row) for row in (piece.mean, *piece.rows)]

    for name, found in mean_by_piece(trees, weights, take, mixture) if squares else ():
        squares[name] = [a + b for a, b in zip(squares[name], found, strict=True)]
    return {name: [math.sqrt(square) for square in found] for name, found in squares.items()}


def weighted_mean(
    trees: Sequence[Readable], weights: Sequence[float], mixture: Mixture = Mixture()
) -> dict[str, Tensor]:
    """Weighted mean of whole trees, or what they are merged into, as `mean_by_piece` makes it.

    Returns:
        float32 leaves of the same names and shapes.

    Raises:
        ValueError: no trees, or weights that do not sum to a positive number.
    """
    first = trees[0] if trees else {}
    mean = {name: torch.empty(value.shape) for name, value in first.items()}
    _write_mean(mean, trees, weights, mixture)
    return mean


def _write_mean(
    into: Tree, trees: Sequence[Readable], weights: Sequence[float], mixture: Mixture
) -> None:
    def write(piece: Piece) -> None:
        into[piece.name].view(-1)[piece.at].copy_(piece.mean)

    mean_by_piece(trees, weights, write, mixture)


def encoded_mean(
    trees: Sequence[Readable],
    weights: Sequence[float],
    codec: Codec,
    before: Tree,
    mixture: Mixture,
) -> dict[str, Tensor]:
    """The weighted mean as it is sent; what its codec loses is not fed back.

    A mean of moments replaces the last one: errors do not add up.

    Args:
        before: what was sent the last time, or nothing; it is written over where that can be.
        mixture: how they are merged, if not into that mean.
    """
    sent: dict[str, Tensor] = {}
    if codec.cast is None:
        for name in trees[0]:
            alone = [cast(Readable, {name: tree[name]}) for tree in trees]
            sent |= encode(weighted_mean(alone, weights, mixture), codec)[0]
        return sent
    for name, like in trees[0].items():
        old = before.get(name)
        if old is None or (old.shape, old.dtype) != (like.shape, codec.cast):
            old = torch.empty(like.shape, dtype=codec.cast)
        sent[name] = old
    _write_mean(sent, trees, weights, mixture)
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
    return replace(
        ordered[0],
        gradient=gradient,
        moments=moments,
        num_tokens=sum(update.num_tokens for update in ordered),
        num_steps=max(update.num_steps for update in ordered),
        metrics=folded_metrics(ordered, weights),
        state_lost=any(update.state_lost for update in ordered),
        covers=tuple(update.client for update in ordered),
    )


def folded_metrics(updates: Sequence[Update], weights: Sequence[float]) -> dict[str, float]:
    """Those that all of them have, as one."""
    shared = set.intersection(*(set(update.metrics) for update in updates))
    return {key: _folded(key, updates, weights) for key in sorted(shared)}


def _folded(key: str, updates: Sequence[Update], weights: Sequence[float]) -> float:
    """The mean of a metric; the seconds of a device that clients share add up."""
    if key in OF_CLIENTS.values():
        return sum(update.metrics[key] for update in updates)
    weighted = zip(updates, weights, strict=True)
    return sum(update.metrics[key] * weight for update, weight in weighted) / sum(weights)
