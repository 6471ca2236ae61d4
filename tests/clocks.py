"""A clock for code that sleeps."""

from __future__ import annotations


class Clock:
    """Stands in place of the module `time`; goes on as somebody sleeps, or as a test says."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
