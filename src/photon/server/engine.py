"""What the loop of rounds asks of whatever trains clients."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Protocol

from photon.core.messages import Arrival, RoundPlan, Update
from photon.core.traffic import Traffic
from photon.machine.clock import Clock
from photon.run.base import Base
from photon.secure.fixed_point import Trees
from photon.secure.session import Parties


class Engine(Protocol):
    """Has clients trained, yields what comes of it, and cancels: `core.policy` decides the rest."""

    @property
    def can_be_late(self) -> bool:
        """Whether a client may keep the others waiting."""
        ...

    @property
    def clock(self) -> Clock:
        """Of the time that training takes."""
        ...

    @property
    def devices(self) -> int:
        """How many clients can train at a time; of another party, as it says."""
        ...

    @property
    def busy(self) -> int:
        """Clients that train for an earlier round, or whose update of one has come since."""
        ...

    @property
    def durations(self) -> Sequence[float]:
        """Seconds that updates have taken, where that matters."""
        ...

    def alive(self, should_stop: Callable[[], bool]) -> Sequence[int]:
        """Clients that can take part in the next round."""
        ...

    def run_round(
        self, plan: RoundPlan, base: Base, waiting: deque[int], should_stop: Callable[[], bool]
    ) -> Generator[Arrival, None, None]:
        """Train clients; ends when nobody is left to wait for, or when it is stopped.

        Args:
            waiting: clients that nobody trains yet; more may be added between two arrivals.
        """
        ...

    def parties(
        self,
        plan: RoundPlan,
        updates: Mapping[int, Update],
        like: Trees,
        should_stop: Callable[[], bool],
    ) -> Parties:
        """The clients of a round for a session of secure aggregation.

        Args:
            updates: of them, where they have come in the clear: on one machine.
            like: tensors with the names and shapes of an update.
        """
        ...

    def take_traffic(self) -> Traffic | None:
        """What has been sent since the last time; None: nothing travels."""
        ...

    def cancel(self, before: int) -> None:
        """End what was asked for in earlier rounds than this one and has not come."""
        ...

    def close(self) -> None: ...
