"""What has been sent in a round: bytes by direction, by what they were, and by client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from photon.core.messages import Broadcast, Difference, Update
from photon.core.tree import num_bytes

REST = "rest"
"""Headers, digests, facts, instructions, whatever is no tensor."""


@dataclass(slots=True)
class Traffic:
    """Counts bytes.

    Attributes:
        up: `gradient`, `moments`, `rest`, from clients to the server.
        down: `parameters` (whole or as differences), `moments`, `rest`, back.
        clients: client -> what it has sent and received. What serves several at once, as the one
            base for all clients of a node, is divided among them.
    """

    up: Counter[str] = field(default_factory=lambda: Counter(gradient=0, moments=0, rest=0))
    down: Counter[str] = field(default_factory=lambda: Counter(parameters=0, moments=0, rest=0))
    clients: dict[int, list[int]] = field(default_factory=dict)

    def sent(self, clients: Sequence[int], size: int) -> None:
        """Count what clients have sent."""
        self.up[REST] += size
        self._share(0, clients, size)

    def received(self, clients: Sequence[int], size: int) -> None:
        """Count what clients have received."""
        self.down[REST] += size
        self._share(1, clients, size)

    def were_tensors(self, up: Mapping[str, int], down: Mapping[str, int]) -> None:
        """Say what some of the counted bytes were."""
        for counter, kinds in ((self.up, up), (self.down, down)):
            counter.update(kinds)
            counter[REST] -= sum(kinds.values())

    def _share(self, at: int, clients: Sequence[int], size: int) -> None:
        each, left = divmod(size, len(clients))
        for number, client in enumerate(clients):
            self.clients.setdefault(client, [0, 0])[at] += each + (number < left)

    def add(self, other: Traffic) -> None:
        self.up.update(other.up)
        self.down.update(other.down)
        for client, (up, down) in other.clients.items():
            own = self.clients.setdefault(client, [0, 0])
            own[0], own[1] = own[0] + up, own[1] + down

    @property
    def bytes_up(self) -> int:
        return self.up.total()

    @property
    def bytes_down(self) -> int:
        return self.down.total()


def kinds_up(update: Update) -> dict[str, int]:
    """Bytes of the tensors of an update."""
    moments = sum(map(num_bytes, update.moments.values()))
    return {"gradient": num_bytes(update.gradient), "moments": moments}


def kinds_down(what: Broadcast | Difference) -> dict[str, int]:
    """Bytes of the tensors of what clients receive."""
    moments = sum(map(num_bytes, what.moments.values()))
    return {"parameters": num_bytes(what.params), "moments": moments}
