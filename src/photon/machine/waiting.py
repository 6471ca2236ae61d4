"""Waiting is never silent: what is awaited is said at once, again every ten seconds, then rarer."""

from __future__ import annotations

from photon.machine.clock import SYSTEM, Clock
from photon.say import Say

SHORTEST, LONGEST = 10.0, 600.0


def next_word(waited: float) -> float:
    """Seconds of waiting after which to speak again, having spoken after `waited` of them.

    Every ten seconds in the first half minute, every third of the time so far after that, every ten
    minutes in the end.
    """
    return waited + min(max(SHORTEST, waited / 3), LONGEST)


class Waiting:
    """Tells what is awaited, and since when, by a clock of seconds."""

    def __init__(self, say: Say, clock: Clock = SYSTEM) -> None:
        self.say, self._clock = say, clock
        self._since: float | None = None
        self._said, self._due = "", 0.0

    def tell(self, text: str) -> None:
        """Say what is still awaited if it is time to, or if the text is another than before."""
        now = self._clock()
        if self._since is None:
            self._since = now
        waited = now - self._since
        if text == self._said and waited < self._due:
            return
        self._said, self._due = text, next_word(waited)
        self.say(f"waiting     {text}{f'; {_duration(waited)} so far' if waited >= 1 else ''}")

    def is_over(self) -> None:
        """What was awaited has come; the next wait counts from zero."""
        self._since, self._said = None, ""


def _duration(seconds: float) -> str:
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
