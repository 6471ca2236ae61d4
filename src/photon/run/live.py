"""Where training is at this moment: small files in the run folder, for whoever looks on.

They are neither flushed to the disk nor read by training; what counts is in the checkpoints.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from photon.files import new_file

FILE = "live.json"
BEACON_SECONDS = 0.5
"""No file is written more often."""


class Beacon:
    """Says where something is, in a file; a disk that is full or gone does not disturb it.

    Args:
        path: of the file; None says nothing to nobody.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self._last = path, float("-inf")

    def tell(self, facts: Mapping[str, Any]) -> None:
        """Write the facts and the time."""
        if self.path is None:
            return
        self._last = time.monotonic()
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(self.path, durable=False) as file:
                file.write(json.dumps({**facts, "time": time.time()}).encode())

    def is_due(self) -> bool:
        return self.path is not None and time.monotonic() - self._last >= BEACON_SECONDS

    def close(self) -> None:
        """Nothing is under way any more."""
        with suppress(OSError):
            if self.path is not None:
                self.path.unlink(missing_ok=True)


class StepBeacon:
    """Stands between a trainer and whoever may stop it: asked before each step, it counts.

    Args:
        beacon: where to say it.
        should_stop: whom to ask.
        facts: what else to say: `round`.
        done, total: steps taken before, and in all.
        tokens: of a step.
    """

    def __init__(
        self,
        beacon: Beacon,
        should_stop: Callable[[], bool],
        facts: Mapping[str, Any],
        *,
        done: int,
        total: int,
        tokens: int,
    ) -> None:
        self.beacon, self.should_stop, self.facts = beacon, should_stop, facts
        self.done, self.total, self.tokens = done, total, tokens
        self._steps, self._begun = 0, 0.0

    def __call__(self) -> bool:
        self._begun = self._begun or time.monotonic()
        if self.beacon.is_due():
            seconds = time.monotonic() - self._begun
            rate = self._steps * self.tokens / seconds if seconds else 0.0
            step = {"step": self.done + self._steps, "steps": self.total, "tokens_per_second": rate}
            self.beacon.tell({**self.facts, **step})
        self._steps += 1
        return self.should_stop()


@dataclass(frozen=True, slots=True)
class ClientLive:
    """A client that trains now.

    Attributes:
        step, steps: taken, and of this round.
        tokens_per_second: since it began here; 0 before the first step.
    """

    client: int
    round: int
    step: int
    steps: int
    tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """Where a run is.

    Attributes:
        phase: wait, train, aggregate, validate; None if nothing says so.
        phase_seconds: for how long by now.
        round: that is open, of a federated run.
        cohort, arrived: clients of the round, and those whose update is here.
        step, steps, tokens_per_second: of a centralised run.
        clients: those that train on this machine now.
    """

    phase: str | None = None
    phase_seconds: float = 0.0
    round: int | None = None
    cohort: list[int] = field(default_factory=list)
    arrived: list[int] = field(default_factory=list)
    step: int | None = None
    steps: int | None = None
    tokens_per_second: float | None = None
    clients: list[ClientLive] = field(default_factory=list)


def read_live(folder: Path) -> Live:
    """What the beacons of a run say."""
    facts = read_facts(folder / FILE)
    known = {key: facts[key] for key in Live.__slots__ if key in facts and key != "clients"}
    since = facts.get("since", facts.get("time", time.time()))
    clients = []
    for path in sorted((folder / "clients").glob(f"client_*/{FILE}")):
        own = read_facts(path)
        with suppress(KeyError, ValueError):
            number = int(path.parent.name.removeprefix("client_"))
            clients.append(
                ClientLive(number, own["round"], own["step"], own["steps"],
                           own["tokens_per_second"])
            )  # fmt: skip
    if "round" in known:  # one that was killed in an earlier round has left its beacon
        clients = [one for one in clients if one.round == known["round"]]
    clients.sort(key=lambda one: one.client)
    return Live(**known | {"phase_seconds": max(0.0, time.time() - since), "clients": clients})


def read_facts(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if it is missing, or being written."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
