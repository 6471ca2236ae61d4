"""Updates as whole numbers whose sum over a cohort cannot wrap, and their mean.

A client multiplies each number by the share that its tokens are of the most that anybody can have
(or by 1, where all clients count alike), and rounds it to the nearest of 2 x `levels` + 1 steps
within the reach of an honest client:

    q = round(x * (tokens / most_tokens) * levels / reach)          |q| <= levels
    mean = (sum of q) * (reach / levels) * most_tokens / (sum of tokens)

`levels` times the clients is less than half of what the ring holds, so that the sum modulo 2^32 or
2^64 is the sum. All is float64 but the whole numbers, so the same bits come of it anywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from photon.core.codec import SQUARES
from photon.core.tree import Tree, spans
from photon.errors import PayloadError

PIECE = 1 << 18
"""Elements of a piece: a few of them are in memory, and fit the caches of a core."""
TOKENS = "tokens"
LIMBS = 4
"""16 bits of a count of tokens each: their sums fit 32 bits for 65,536 clients."""

Trees = Mapping[str, Tree]
"""The pseudo-gradient, and the moments that are averaged, by name: float32."""


class Piece(NamedTuple):
    """Neighbouring elements of a leaf.

    Attributes:
        start, stop: of the flattened leaf.
        at: where they begin among all numbers of their tree.
    """

    tree: str
    leaf: str
    start: int
    stop: int
    at: int

    @property
    def place(self) -> slice:
        return slice(self.at, self.at + self.stop - self.start)


class Scale(NamedTuple):
    """Of a tree's numbers.

    Attributes:
        reach: the largest of any honest client.
        levels: steps from zero to it.
    """

    reach: float
    levels: int


def ring(tree: str) -> np.dtype:
    """The type in which a tree's numbers are added. Means of squares span twice the range."""
    return np.dtype("<u8" if tree in SQUARES else "<u4")


def scale(tree: str, reach: float, clients: int) -> Scale:
    """That of a tree, for a sum over so many clients. Levels are whole in float64 too."""
    bits = 8 * ring(tree).itemsize - 1
    levels, rest = (1 << bits) // clients - 1, max(0, bits - 52)
    return Scale(reach, levels >> rest << rest)


def pieces(trees: Trees) -> list[Piece]:
    """All numbers of an update, in its order."""
    found = []
    for name, tree in trees.items():
        at = 0
        for leaf, start, stop in spans(tree, PIECE):
            found.append(Piece(name, leaf, start, stop, at))
            at += stop - start
    return found


def form(trees: Trees) -> str:
    """Hex digest of the names and sizes of all leaves, in their order."""
    named = [[name, [[leaf, value.numel()] for leaf, value in tree.items()]]
             for name, tree in trees.items()]  # fmt: skip
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def quantised(numbers: np.ndarray, share: float, scale: Scale, kind: np.dtype) -> np.ndarray:
    """Whole numbers in the ring, from the float32 ones of a client.

    Args:
        share: by which they are multiplied, 1 at the most.

    Raises:
        PayloadError: one is out of reach, or none at all.
    """
    far = max(float(numbers.max(initial=0.0)), -float(numbers.min(initial=0.0)))
    if not far <= scale.reach:  # a NaN is in no order
        raise PayloadError(f"a number of {far:.3g} is beyond the {scale.reach:.3g} of honest steps")
    steps = np.multiply(numbers, share * (scale.levels / scale.reach), dtype=np.float64)
    np.rint(steps, out=steps)
    np.clip(steps, -scale.levels, scale.levels, out=steps)  # the product may be rounded up
    return steps.astype(np.dtype(f"<i{kind.itemsize}")).view(kind)


def restored(total: np.ndarray, weight: float, scale: Scale) -> np.ndarray:
    """The mean, float32, from sums in the ring.

    Args:
        weight: one over the sum of the clients' shares.
    """
    unit = scale.reach / scale.levels * weight
    signed = total.view(np.dtype(f"<i{total.dtype.itemsize}"))
    return np.multiply(signed, unit, dtype=np.float64).astype(np.float32)


def limbs(tokens: int) -> np.ndarray:
    """A count of tokens as numbers of the ring, the lowest first."""
    return np.array([tokens >> 16 * i & 0xFFFF for i in range(LIMBS)], dtype="<u4")


def counted(sums: np.ndarray) -> int:
    """The sum of counts, from the sums of their limbs."""
    return sum(int(limb) << 16 * i for i, limb in enumerate(sums))


def numbers_of(trees: Trees, piece: Piece) -> np.ndarray:
    """float32, without a copy."""
    return _flat(trees[piece.tree][piece.leaf])[piece.start : piece.stop]


def _flat(value: Tensor) -> np.ndarray:
    return value.detach().view(-1).numpy()


def plain_mean(
    updates: Sequence[Trees],
    tokens: Sequence[int],
    most_tokens: int,
    reaches: Mapping[str, float],
    clients: int,
) -> dict[str, dict[str, np.ndarray]]:
    """The mean of updates that are rounded alike, without masks: the secure one has the same bits.

    Args:
        tokens, most_tokens: 1 each where all clients count alike.
        reaches: of each tree.
        clients: that the scale has room for, those that dropped out too.

    Returns:
        Flat float32 leaves by tree.
    """
    mean: dict[str, dict[str, np.ndarray]] = {}
    for name, tree in updates[0].items():
        its, kind = scale(name, reaches[name], clients), ring(name)
        for leaf in tree:
            rows = [
                quantised(_flat(update[name][leaf]), own / most_tokens, its, kind)
                for update, own in zip(updates, tokens, strict=True)
            ]
            total = _sum(rows)
            mean.setdefault(name, {})[leaf] = restored(total, most_tokens / sum(tokens), its)
    return mean


def _sum(rows: Iterable[np.ndarray]) -> np.ndarray:
    first, *others = rows
    for row in others:
        first = first + row
    return first
