"""The clients of a round while updates may come: who waits for a node, where each was tried."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from photon.core.messages import Failure, RoundPlan
from photon.core.policy import assign
from photon.server.errand import MAX_EXCUSES, Outcome

MAX_ATTEMPTS = 3
"""How often a client is tried in a round, on whichever node, before it is left out."""


@dataclass(eq=False, slots=True)
class Attempts:
    """Those of one round.

    Attributes:
        waiting: clients that wait for a node.
        say: takes lines for the user.
        at: addresses of the nodes where each client was tried.
        excuses: attempts of each that do not count.
    """

    plan: RoundPlan
    waiting: deque[int]
    say: Callable[[str], None]
    at: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    excuses: Counter[int] = field(default_factory=Counter)

    def place(
        self, hosts: Mapping[str, Collection[int]], busy: Collection[str]
    ) -> dict[str, list[int]]:
        """Give idle nodes clients that wait, as `core.policy.assign` says."""
        placed = assign(self.waiting, hosts, busy, self.at)
        for address, clients in placed.items():
            for client in clients:
                self.waiting.remove(client)
                self.at[client].append(address)
        return placed

    def settle(self, node: str, address: str, outcome: Outcome) -> list[Failure]:
        """What comes of the clients that an errand has failed."""
        for client in outcome.failed:
            self.excuses[client] += outcome.is_excused
            is_excused = outcome.is_excused and self.excuses[client] <= MAX_EXCUSES
            if outcome.has_left or is_excused:
                self.at[client].remove(address)
        if outcome.has_left:
            return self._wait_for_another(node, outcome.failed)
        return self.try_again(node, outcome.failed)

    def try_again(self, node: str, failed: Mapping[int, str]) -> list[Failure]:
        """Clients without an update wait for another attempt, unless there were enough."""
        for client, reason in failed.items():
            may_retry = len(self.at[client]) < MAX_ATTEMPTS
            what = "trying again" if may_retry else "left out of this round"
            self.say(f"client {client} on node {node}: {reason}; {what}")
            self.waiting += [client] if may_retry else []
        return [Failure(client, f"node {node}: {reason}") for client, reason in failed.items()]

    def _wait_for_another(self, node: str, clients: Collection[int]) -> list[Failure]:
        """A node that is being stopped costs its clients no attempt: it may be stopped any time."""
        self.say(f"node {node} is being stopped")
        self.waiting += clients
        return [Failure(client, f"node {node}: was stopped") for client in clients]
