"""Batches read ahead by a thread, so that a training step finds its rows ready."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

import numpy as np

from photon.core.messages import StreamState
from photon.data.read.stream import JoinedStream

T = TypeVar("T")
States = tuple[StreamState, ...]

DEPTH = 4
"""Batches that wait at the most."""


class Prefetch(Generic[T]):
    """Hands out the batches of a stream in order, each with the positions after it.

    Attributes:
        seconds_waited: time that `next` has stood still.
    """

    def __init__(
        self,
        read: Callable[[States], tuple[T, States]],
        states: States,
        thread: Executor,
        depth: int,
    ) -> None:
        self.seconds_waited = 0.0
        self._read, self._states, self._thread = read, states, thread
        self._waiting: deque[Future[tuple[T, States]]] = deque(
            thread.submit(self._advance) for _ in range(depth)
        )

    def next(self) -> tuple[T, States]:
        """The next batch and the positions after it.

        Raises:
            BaseException: what reading it raised, as it was, and again whenever it is asked for.
        """
        begun = time.perf_counter()
        item = self._waiting[0].result()
        self.seconds_waited += time.perf_counter() - begun
        self._waiting.popleft()
        self._waiting.append(self._thread.submit(self._advance))
        return item

    def _advance(self) -> tuple[T, States]:
        """Read one batch; the executor has one thread, so that they are read one after another."""
        batch, self._states = self._read(self._states)
        return batch, self._states


@contextmanager
def prefetch(
    stream: JoinedStream,
    states: Sequence[StreamState],
    count: int,
    prepare: Callable[[np.ndarray], T],
    depth: int = DEPTH,
) -> Iterator[Prefetch[T]]:
    """Read a stream ahead in a thread for the length of a block.

    The values are those of `stream.read`, whatever the timing; batches read ahead but not asked for
    leave no trace, since the position is what was handed out.

    Args:
        states: positions to start from.
        count: rows of a batch.
        prepare: applied to the rows in the thread, to take the copy to pinned memory there.
        depth: batches that wait at the most.
    """

    def read(before: States) -> tuple[T, States]:
        rows, after = stream.read(before, count)
        return prepare(rows), after

    thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        yield Prefetch(read, tuple(states), thread, depth)
    finally:
        thread.shutdown(cancel_futures=True)
