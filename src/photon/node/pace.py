"""Steps that take at least so long, to study waiting where the processor is not the subject."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Asked before each step whether to stop, it first sleeps what is left of the step before.

    Processes that train one client together each have their own, and sleep side by side.

    Args:
        seconds: that a step takes at least.
        should_stop: whom to ask.
    """

    def __init__(self, seconds: float, should_stop: Callable[[], bool]) -> None:
        self.seconds, self.should_stop = seconds, should_stop
        self._due: float | None = None

    def __call__(self) -> bool:
        self.end_step()
        if self.should_stop():
            return True
        self._due = time.monotonic() + self.seconds
        return False

    def end_step(self) -> None:
        """The step that has begun is computed: sleep until it may end."""
        due, self._due = self._due, None
        if due is not None and (left := due - time.monotonic()) > 0:
            time.sleep(left)
