"""How long messages are on their way: bandwidth that they share, latency, jitter, loss."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from photon.core.seeds import generator
from photon.simulation.links import Link
from photon.simulation.timeline import Timeline

PIECE_BYTES = 1 << 16
RETRANSMIT_SECONDS = 0.2
"""By which a lost piece comes later: what loss looks like above TCP."""


def fair_shares(rate: float, most: Sequence[float]) -> list[float]:
    """What each gets of a rate: all alike, but nobody more than its most, and the others what it
    leaves (max-min fairness), as connections share a link.
    """
    found, left = [0.0] * len(most), rate
    for taken, at in enumerate(sorted(range(len(most)), key=most.__getitem__)):
        found[at] = min(most[at], left / (len(most) - taken))
        left -= found[at]
    return found


class Junction:
    """The server's end of one direction of its link, whose bytes all ways share.

    Args:
        rate: bytes per second; without limit no way is in another's way.
    """

    def __init__(self, rate: float, timeline: Timeline[Any]) -> None:
        self.rate, self.timeline = rate, timeline
        self._left: dict[Road, float] = {}
        self._shares: dict[Road, float] = {}
        self._since = 0.0
        self._plans = 0

    def begin(self, road: Road, size: int) -> None:
        """So many bytes set out; the way is told when they have passed."""
        if math.isinf(self.rate):
            self.timeline.at(self.timeline() + size / road.rate, road.passed)
            return
        self._pass()
        self._left[road], self._shares[road] = size, 0.0
        self._plan_soon()

    def _pass(self) -> None:
        """Bytes pass up to now."""
        now = self.timeline()
        if (seconds := now - self._since) > 0:
            for road, share in self._shares.items():
                self._left[road] -= share * seconds
        self._since = now

    def _plan_soon(self) -> None:
        """At this moment, but once for all that set out at it."""
        self._plans += 1
        self.timeline.at(self.timeline(), partial(self._plan, self._plans))

    def _plan(self, plan: int) -> None:
        """Say who will be through first, if nobody else sets out before."""
        if plan != self._plans or not self._left:
            return
        self._pass()
        rates = fair_shares(self.rate, [road.rate for road in self._left])
        self._shares = dict(zip(self._left, rates, strict=True))
        after, road = min(
            ((left / self._shares[road], road) for road, left in self._left.items()),
            key=lambda pair: pair[0],
        )
        self.timeline.at(self.timeline() + max(0.0, after), partial(self._end, road, plan))

    def _end(self, road: Road, plan: int) -> None:
        if plan != self._plans:
            return  # somebody has set out since
        self._pass()
        through = [one for one, left in self._left.items() if one is road or left < 1]
        for one in through:
            del self._left[one], self._shares[one]
        self._plan_soon()
        for one in through:
            one.passed()


@dataclass(slots=True, eq=False)
class Road:
    """One way between the server and a node.

    Messages come in the order in which they were sent, as over one connection.

    Attributes:
        rate: of the node's own link, bytes per second.
        ends: both links, which add their latencies, jitters and losses.
        address: of what is drawn: a seed, a purpose, and the node's number.
    """

    junction: Junction
    rate: float
    ends: Sequence[Link]
    address: tuple[int, str, int]
    _queue: deque[tuple[int, Callable[[], Any]]] = field(default_factory=deque)
    _passed: int = 0
    _last: float = 0.0

    def send(self, size: int, arriving: Callable[[], Any]) -> None:
        """Have an event happen when a message of so many bytes, which sets out now, has arrived."""
        self._queue.append((size, arriving))
        if len(self._queue) == 1:
            self.junction.begin(self, size)

    def passed(self) -> None:
        """The bytes of the first message have, and are under way for the latency yet."""
        size, arriving = self._queue.popleft()
        timeline = self.junction.timeline
        late = sum(end.latency for end in self.ends) + self._drawn(size)
        self._passed += 1
        self._last = max(self._last, timeline() + late)
        timeline.at(self._last, arriving)
        if self._queue:
            self.junction.begin(self, self._queue[0][0])

    def _drawn(self, size: int) -> float:
        """Seconds by which chance makes a message later: the piece that comes last decides."""
        if not any(end.jitter or end.loss for end in self.ends):
            return 0.0
        draw, pieces = generator(*self.address, self._passed), max(1, -(-size // PIECE_BYTES))
        late = np.zeros(pieces)
        for end in self.ends:
            late += end.jitter * draw.random(pieces)
            late += RETRANSMIT_SECONDS * (draw.random(pieces) < end.loss)
        ahead = PIECE_BYTES / min(self.rate, self.junction.rate) * np.arange(pieces)[::-1]
        return float((late - ahead).max())
