"""What the loop of rounds asks of whatever trains clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from photon.core.messages import RoundPlan, ServerState, Update


class Engine(Protocol):
    """Delivers instructions and yields updates in the order in which they arrive.

    An iteration that ends early was stopped by `should_stop`, or has waited long enough; what is
    missing is in `faults`. Finished updates are kept.

    Attributes:
        faults: of the last round: client -> why it has no update.
    """

    faults: dict[int, str]

    def alive(self, should_stop: Callable[[], bool]) -> Sequence[int]:
        """Clients that can take part in the next round."""
        ...

    def run_round(
        self, plan: RoundPlan, state: ServerState, base: Path, should_stop: Callable[[], bool]
    ) -> Iterator[Update]: ...

    def close(self) -> None: ...
