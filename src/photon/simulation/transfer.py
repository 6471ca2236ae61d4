"""How long messages are on their way: bandwidth that they share, latency, jitter, loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from photon.core.seeds import generator
from photon.simulation.links import Link

PIECE_BYTES = 1 << 16
RETRANSMIT_SECONDS = 0.2
"""By which a lost piece comes later: what loss looks like above TCP."""


@dataclass(slots=True)
class Lane:
    """One direction of a link: its bytes pass one after the other.

    Attributes:
        rate: bytes per second.
        free: when all that was sent so far has passed.
    """

    rate: float
    free: float = 0.0

    def passed(self, now: float, size: int) -> float:
        """When so many bytes have passed that are sent now."""
        self.free = max(now, self.free) + size / self.rate
        return self.free


@dataclass(slots=True)
class Road:
    """One way between the server and a node, through a lane of each.

    Messages come in the order in which they were sent, as over one connection.

    Attributes:
        ends: both links, which add their latencies, jitters and losses.
        address: of what is drawn: a seed, a purpose, and the node's number.
    """

    lanes: Sequence[Lane]
    ends: Sequence[Link]
    address: tuple[int, str, int]
    _sent: int = 0
    _last: float = 0.0

    def arrival(self, now: float, size: int) -> float:
        """When a message of so many bytes that is sent now has arrived."""
        through = max(lane.passed(now, size) for lane in self.lanes)
        late = sum(end.latency for end in self.ends) + self._drawn(size)
        self._sent += 1
        self._last = max(self._last, through + late)
        return self._last

    def _drawn(self, size: int) -> float:
        """Seconds by which chance makes a message later: the piece that comes last decides."""
        if not any(end.jitter or end.loss for end in self.ends):
            return 0.0
        draw, pieces = generator(*self.address, self._sent), max(1, -(-size // PIECE_BYTES))
        late = np.zeros(pieces)
        for end in self.ends:
            late += end.jitter * draw.random(pieces)
            late += RETRANSMIT_SECONDS * (draw.random(pieces) < end.loss)
        ahead = PIECE_BYTES / min(lane.rate for lane in self.lanes) * np.arange(pieces)[::-1]
        return float((late - ahead).max())
