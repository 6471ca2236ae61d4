"""Work that goes on behind the caller: in order, in one thread, with a bound on what waits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore, Event
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

HELD_SECONDS = 1.0
"""Work waits no longer for `go`, whatever becomes of whoever was to say it."""


class WriteBehind:
    """Carries out what it is given, one after the other.

    What is handed over holds memory until it is done, so there are `depth` places for it. A place
    is taken before that memory is, by `enter`, and is free again when the work has ended.

    Between `hold` and `go` no work begins, for a second at most: then whoever prepares the next
    training has the cores to himself.
    """

    def __init__(self, depth: int) -> None:
        self._places = BoundedSemaphore(depth)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write-behind")
        self._may_begin = Event()
        self._may_begin.set()

    def enter(self) -> None:
        """Wait for a place; `submit` or `leave` has to follow."""
        self.go()
        self._places.acquire()

    def leave(self) -> None:
        """Give back a place that nothing comes to."""
        self._places.release()

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Carry out `work` in the place that was entered; its error is that of the future."""

        def begin() -> T:
            self._may_begin.wait(HELD_SECONDS)
            return work(*args, **kwargs)

        future = self._pool.submit(begin)
        future.add_done_callback(lambda _: self._places.release())
        return future

    def hold(self) -> None:
        """Begin nothing until `go`."""
        self._may_begin.clear()

    def go(self) -> None:
        self._may_begin.set()

    def close(self) -> None:
        """Wait until all is done."""
        self.go()
        self._pool.shutdown()
