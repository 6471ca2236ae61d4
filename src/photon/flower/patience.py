"""How long Flower's processes wait before they ask again."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

PART, SHORTEST = 0.1, 0.05
LONGEST_BETWEEN_PULLS = 1.0


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


def pulling_soon(pull: Callable[..., Any]) -> Callable[..., Any]:
    """One of Flower's functions that pull the parts of a message: it asks again for what is still
    on its way after 0.05 s, 0.1 s and so on, where Flower's waits a second or two.

    A message is seen before its parts are there, so that many are asked for twice. How long they
    may take is as before; how often they are asked for in that time has no limit.
    """
    return partial(
        pull,
        initial_backoff=SHORTEST,
        backoff_cap=LONGEST_BETWEEN_PULLS,
        max_tries_per_object=None,
    )
