"""Which row comes at which place of an epoch: an addressed permutation, made block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from photon.core.seeds import generator

BLOCK_ROWS = 1 << 20
"""Rows shuffled as one block by default: their permutation takes 0.1 s and 8 MiB."""


class EpochOrder:
    """The order of a client's rows, epoch by epoch.

    Up to `block_rows` rows are one permutation. More are cut into blocks: the shards in a random
    order, as many of them to a block as fit, the rows of a block in a random order. So any place
    of any epoch is reached by making one block, and a block reads only its own shards.

    Args:
        shard_rows: rows of each shard.
        seed: address of the order; None keeps the order on disk.
        client: part of the address.
        block_rows: most rows of a block; a larger shard is a block of its own.
    """

    def __init__(
        self,
        shard_rows: Sequence[int],
        *,
        seed: int | None,
        client: int,
        block_rows: int | None = None,
    ) -> None:
        self.seed, self.client = seed, client
        self._block_rows = block_rows or BLOCK_ROWS
        self._shard_rows = np.asarray(shard_rows, dtype=np.int64)
        self.num_rows = int(self._shard_rows.sum())
        self._epoch = self._plan(-1)
        self._block: tuple[int, int, np.ndarray] | None = None

    def rows(self, epoch: int, cursor: int, count: int) -> np.ndarray:
        """Rows at places [cursor, cursor + count) of an epoch, by their number on disk.

        Returns:
            At most `count`, int64: fewer where the block ends.
        """
        if self.seed is None:
            return np.arange(cursor, min(cursor + count, self.num_rows))
        if epoch != self._epoch.number:
            self._epoch = self._plan(epoch)
        number = int(np.searchsorted(self._epoch.ends, cursor, side="right"))
        order = self._rows_of_block(number)
        first = cursor - (int(self._epoch.ends[number]) - len(order))
        return order[first : first + count]

    def _plan(self, epoch: int) -> _Epoch:
        if self.num_rows <= self._block_rows or self.seed is None:
            everything = np.arange(len(self._shard_rows))
            return _Epoch(epoch, [everything], np.array([self.num_rows]))
        draw = generator(self.seed, "shuffle-shards", self.client, epoch)
        shuffled = draw.permutation(len(self._shard_rows))
        blocks = _pack(shuffled, self._shard_rows, self._block_rows)
        return _Epoch(epoch, blocks, np.cumsum([self._shard_rows[b].sum() for b in blocks]))

    def _rows_of_block(self, number: int) -> np.ndarray:
        epoch = self._epoch
        if self._block is None or self._block[:2] != (epoch.number, number):
            assert self.seed is not None
            address = (self.client, epoch.number, *([number] if len(epoch.blocks) > 1 else []))
            ends, sizes = np.cumsum(self._shard_rows).tolist(), self._shard_rows.tolist()
            shards = epoch.blocks[number].tolist()
            rows = np.concatenate([np.arange(ends[s] - sizes[s], ends[s]) for s in shards])
            rows = generator(self.seed, "shuffle", *address).permutation(rows)
            self._block = (epoch.number, number, rows)
        return self._block[2]


@dataclass(frozen=True, slots=True)
class _Epoch:
    """Blocks of an epoch: the shards of each, and the number of rows up to its end."""

    number: int
    blocks: list[np.ndarray]
    ends: np.ndarray


def _pack(order: np.ndarray, sizes: np.ndarray, most: int) -> list[np.ndarray]:
    """Cut an order into runs whose sizes sum to `most` at the most, or of one element."""
    cuts, total = [], 0
    for place, size in enumerate(sizes[order]):
        if total and total + size > most:
            cuts.append(place)
            total = 0
        total += int(size)
    return np.split(order, cuts)
