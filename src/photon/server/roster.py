"""Which nodes are here, and whom they say they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import photon
from photon.core.text import cleaned
from photon.errors import PayloadError
from photon.machine.clock import SYSTEM, Clock
from photon.server.errand import fault_of
from photon.server.link import Link
from photon.wire.buffers import Buffers
from photon.wire.enrolment import Register, format_clients
from photon.wire.messages import (
    PROTOCOL,
    Hello,
    Introduction,
    TurnedAway,
    Verify,
    pack_request,
    unpack_reply,
)

HELLO_SECONDS = 20.0
"""A node that has not answered after so long is asked again."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node that has introduced itself.

    Attributes:
        holds: digest of the base that it had then.
    """

    name: str
    address: str
    clients: frozenset[int]
    holds: str = ""


class Roster:
    """Greets whoever appears on the link and keeps those that may take part.

    Args:
        register: which names may host which clients, and their keys.
        say: takes a line for each node that comes, goes or is turned away.
    """

    def __init__(
        self,
        link: Link,
        register: Register,
        say: Callable[[str], None],
        clock: Clock = SYSTEM,
    ) -> None:
        self.link, self.register, self.say, self._clock = link, register, say, clock
        self.members: dict[str, Member] = {}
        self._asked: dict[str, tuple[str, Buffers, float]] = {}
        self._turned_away: set[str] = set()

    @property
    def verify(self) -> Verify | None:
        """Checks signatures; None in a federation without keys."""
        return None if self.register.nodes is None else self.register.verify

    def refresh(self) -> None:
        """Forget the nodes that have gone, greet the new ones."""
        present = set(self.link.addresses())
        for address in [a for a in self.members if a not in present]:
            self.say(f"node {self.members.pop(address).name} has gone")
        self._turned_away &= present
        waiting = {address for address, _, _ in self._asked.values()}
        for address in sorted(present - self.members.keys() - self._turned_away - waiting):
            message = pack_request(Hello())
            self._asked[self.link.send(address, message)] = (address, message, self._clock())
        overdue = self._clock() - HELLO_SECONDS
        self._asked = {k: v for k, v in self._asked.items() if v[2] > overdue}

    def take(self, name: str, answer: Buffers | None) -> None:
        """Admit or turn away whoever answers a greeting; other answers are nobody's."""
        address, message, _ = self._asked.pop(name, ("", None, 0.0))
        if message is None or answer is None:
            return
        try:
            self._admit(address, *unpack_reply(message, answer, Introduction, self.verify))
        except Exception as error:
            reason = fault_of(error)
            self._turned_away.add(address)
            self.say(f"turned away: {reason}")
            self.link.send(address, pack_request(TurnedAway(reason=reason)))

    def absent(self) -> dict[str, list[int]]:
        """Enrolled nodes that are not here, with their clients; none are known without keys."""
        here = {member.name for member in self.members.values()}
        enrolled = self.register.nodes or {}
        return {name: node.clients for name, node in enrolled.items() if name not in here}

    def lost(self, address: str) -> None:
        """Forget a node that went away in the middle of something: it is greeted again."""
        self.members.pop(address, None)

    def _admit(self, address: str, signer: str, intro: Introduction) -> None:
        if intro.name != signer:
            raise PayloadError(f"node {signer}: introduces itself as {intro.name}")
        if intro.protocol != PROTOCOL or intro.versions.get("photon") != photon.__version__:
            raise PayloadError(
                f"node {signer}: has photon {intro.versions.get('photon')}, protocol "
                f"{intro.protocol}; here is photon {photon.__version__}, protocol {PROTOCOL}"
            )
        allowed = self.register.allowed(signer, intro.clients)
        namesakes = [a for a, member in self.members.items() if member.name == signer]
        for former in namesakes:  # it has come back
            self.members.pop(former)
        self.members[address] = Member(signer, address, frozenset(allowed), intro.holds)
        beyond = format_clients(set(intro.clients) - allowed)
        note = f"; it offers {beyond} too, which its key is not bound to" if beyond else ""
        self.say(
            cleaned(f"node {signer} hosts clients {', '.join(map(str, sorted(allowed)))}{note}")
        )
