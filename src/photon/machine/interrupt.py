"""SIGINT and SIGTERM as a question that the training loop asks between steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from photon.errors import Interrupted


class StopRequest:
    """Remembers the first SIGINT or SIGTERM; the second one interrupts at once.

    Use as a context manager; call it to ask whether to stop.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._previous: dict[int, object] = {}

    def __call__(self) -> bool:
        return self.signum != 0

    def raise_if_asked(self, message: str) -> None:
        """Raise `Interrupted` if a signal arrived."""
        if self.signum:
            raise Interrupted(self.signum, message)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            raise KeyboardInterrupt
        self.signum = signum
