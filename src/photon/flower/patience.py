"""How long Flower's processes wait before they ask for work again."""

from __future__ import annotations

import time

PART, SHORTEST = 0.1, 0.05


class Patience:
    """Takes the place of the module `time` where Flower asks and sleeps in turn, for seconds.

    A pause is a tenth of the time since something happened, so that nothing waits a tenth longer
    than it would have to; never longer than Flower's own, so that who waits for long asks no more
    often than by Flower.
    """

    def __init__(self) -> None:
        self._since = time.monotonic()

    def something_happened(self) -> None:
        self._since = time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Sleep for so many seconds at the most."""
        waited = time.monotonic() - self._since
        time.sleep(min(seconds, max(SHORTEST, PART * waited)))
