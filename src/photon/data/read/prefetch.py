"""Batches read ahead by a thread, so that a training step finds its rows ready."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import numpy as np

from photon.core.messages import StreamState
from photon.data.read.stream import JoinedStream

Batch = TypeVar("Batch")
States = tuple[StreamState, ...]

DEPTH = 4
"""Batches that wait at the most."""


class Prefetch(Generic[Batch]):
    """Hands out the batches of a stream in order, each with the positions after it.

    Attributes:
        seconds_waited: time that `next` has stood still.
    """

    def __init__(self, depth: int) -> None:
        self.seconds_waited = 0.0
        self._ready: queue.SimpleQueue[tuple[Batch, States] | BaseException] = queue.SimpleQueue()
        self._free = threading.Semaphore(depth)
        self._stopped = False

    def next(self) -> tuple[Batch, States]:
        """The next batch and the positions after it.

        Raises:
            BaseException: what reading it raised, as it was.
        """
        begun = time.perf_counter()
        item = self._ready.get()
        self.seconds_waited += time.perf_counter() - begun
        if isinstance(item, BaseException):
            self._ready.put(item)  # whoever asks again learns the same
            raise item
        self._free.release()
        return item

    def run(self, read: Callable[[States], tuple[Batch, States]], states: States) -> None:
        """Read ahead until stopped or until reading fails; runs in the thread."""
        try:
            while self._free.acquire() and not self._stopped:
                batch, states = read(states)
                self._ready.put((batch, states))
        except BaseException as error:  # handed to whoever asks for the batch
            self._ready.put(error)

    def stop(self) -> None:
        self._stopped = True
        self._free.release()


@contextmanager
def prefetch(
    stream: JoinedStream,
    states: Sequence[StreamState],
    count: int,
    prepare: Callable[[np.ndarray], Batch],
    depth: int = DEPTH,
) -> Iterator[Prefetch[Batch]]:
    """Read a stream ahead in a thread for the length of a block.

    The values are those of `stream.read`, whatever the timing; batches read ahead but not asked for
    leave no trace, since the position is what was handed out.

    Args:
        states: positions to start from.
        count: rows of a batch.
        prepare: applied to the rows in the thread, to take the copy to the device's doorstep there.
        depth: batches that wait at the most.
    """

    def read(before: States) -> tuple[Batch, States]:
        rows, after = stream.read(before, count)
        return prepare(rows), after

    batches: Prefetch[Batch] = Prefetch(depth)
    thread = threading.Thread(
        target=batches.run, args=(read, tuple(states)), name="prefetch", daemon=True
    )
    thread.start()
    try:
        yield batches
    finally:
        batches.stop()
        thread.join()
