"""Virtual time: a clock that moves from event to event, and never back."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Timeline(Generic[T]):
    """What will happen, in the order of virtual time; calling it gives the seconds so far.

    Args:
        is_real: between `go_on` and `stop`, virtual seconds pass as real ones do.

    Attributes:
        now: virtual seconds since the beginning, but for what has passed since `go_on`.
    """

    def __init__(self, is_real: bool = False) -> None:
        self.now = 0.0
        self._is_real = self._runs = is_real
        self._since = time.monotonic()
        self._events: list[tuple[float, int, Callable[[], T | None]]] = []
        self._count = itertools.count()

    def __call__(self) -> float:
        return self.now + (time.monotonic() - self._since if self._runs else 0.0)

    def stop(self) -> None:
        """Whoever listens to the clock rests: what happens now takes virtual time only."""
        self.now, self._runs = self(), False

    def go_on(self) -> None:
        """Undo `stop`."""
        self._runs, self._since = self._is_real, time.monotonic()

    @property
    def is_empty(self) -> bool:
        return not self._events

    @property
    def next(self) -> float:
        """When the next event is."""
        return self._events[0][0] if self._events else math.inf

    def at(self, when: float, event: Callable[[], T | None]) -> None:
        """Have an event happen; of those at one moment the first to be planned comes first."""
        heapq.heappush(self._events, (when, next(self._count), event))

    def advance(self, seconds: float) -> None:
        """Let time pass; events in it happen later, in their order."""
        self.now += seconds

    def until(self, when: float) -> T | None:
        """Let events happen until one gives something, or none is left before `when`."""
        while self._events and self._events[0][0] <= when:
            moment, _, event = heapq.heappop(self._events)
            self.now = max(self.now, moment)
            if (found := event()) is not None:
                return found
        self.now = max(self.now, when)
        return None
