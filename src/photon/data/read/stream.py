"""Ordered, resumable reading: (seed, epoch, cursor) -> rows.

The order of an epoch is an addressed permutation, so the position is two integers and resuming
costs the making of one block of it, wherever it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from photon.core.messages import StreamState
from photon.data.read.order import EpochOrder
from photon.data.read.shards import RowSource
from photon.errors import DataError


class Stream:
    """One client's rows in an addressed random order, epoch after epoch.

    Args:
        rows: the client's rows.
        seed: address of the order; None keeps the order on disk.
        client: part of the address.
        block_rows: rows shuffled as one block; None: up to `order.BLOCK_ROWS`.
    """

    def __init__(
        self, rows: RowSource, *, seed: int | None, client: int, block_rows: int | None = None
    ) -> None:
        self.rows, self.client = rows, client
        self.order = EpochOrder(rows.shard_rows, seed=seed, client=client, block_rows=block_rows)

    def read(self, state: StreamState, count: int) -> tuple[np.ndarray, StreamState]:
        """The next rows and the position after them.

        Returns:
            [count, L + 1], int64; a batch may run over the end of an epoch.
        """
        indices, after = self.indices(state, count)
        return self.rows.read(indices), after

    def indices(self, state: StreamState, count: int) -> tuple[np.ndarray, StreamState]:
        """Which rows come next, by their number on disk, and the position after them."""
        parts: list[np.ndarray] = []
        epoch, cursor = state.epoch, state.cursor
        while count:
            part = self.order.rows(epoch, cursor, count)
            parts.append(part)
            cursor, count = cursor + len(part), count - len(part)
            if cursor == len(self.rows):
                epoch, cursor = epoch + 1, 0
        return np.concatenate(parts), StreamState(epoch=epoch, cursor=cursor)


class JoinedStream:
    """Several clients' streams read side by side: a batch is the clients' batches joined.

    This is what data-parallel training on the union of the data sees.

    Args:
        streams: one per client, in client order.

    Raises:
        DataError: no stream.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        if not streams:
            raise DataError("a stream needs at least one client")
        self.streams = tuple(streams)

    def start(self) -> tuple[StreamState, ...]:
        return tuple(StreamState() for _ in self.streams)

    def read(
        self, states: Sequence[StreamState], count: int
    ) -> tuple[np.ndarray, tuple[StreamState, ...]]:
        """The next batch: count / K rows of each of the K streams and the positions after it.

        Where K does not divide count, the streams take one more in turn, from batch to batch, so
        that none is left out.
        """
        parts, after = [], []
        for stream, state, share in self._shares(states, count):
            rows, new_state = stream.read(state, share) if share else (None, state)
            parts += [] if rows is None else [rows]
            after.append(new_state)
        return np.concatenate(parts), tuple(after)

    def _shares(
        self, states: Sequence[StreamState], count: int
    ) -> Iterator[tuple[Stream, StreamState, int]]:
        pairs = list(zip(self.streams, states, strict=True))
        base, extra = divmod(count, len(pairs))
        turn = sum(state.epoch * len(stream.rows) + state.cursor for stream, state in pairs)
        for number, (stream, state) in enumerate(pairs):
            yield stream, state, base + ((number - turn) % len(pairs) < extra)

    def describe(self, states: Sequence[StreamState], count: int) -> str:
        """Which rows `read` would give, for people: by client, numbered as on disk."""
        shown = []
        for stream, state, share in self._shares(states, count):
            if share:
                rows, _ = stream.indices(state, share)
                more = ", ..." if share > 8 else ""
                shown.append(f"client {stream.client}: {', '.join(map(str, rows[:8]))}{more}")
        return "; ".join(shown)
