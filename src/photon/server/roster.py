"""Which nodes are here, and whom they say they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import photon
from photon.chain.receipts import Outbox
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
NAME_SECONDS = 60.0
"""A node that is asked whether it lives, and does not answer for so long, loses its name to the one
that has come with it; Flower takes as long to see that a node has gone."""

LAST_SECONDS = 10.0
"""Nobody waits longer for answers to the last word; who misses it hears it when the run goes on."""


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


@dataclass(frozen=True, slots=True)
class _Greeting:
    """One that has not been answered yet."""

    address: str
    message: Buffers
    sent: float


@dataclass(frozen=True, slots=True)
class _Newcomer:
    """A node whose name another one has, until that has answered once more or is seen to have gone.

    Attributes:
        said: of it, once it may take part.
        until: the other one keeps the name that long without an answer.
    """

    member: Member
    said: str
    until: float


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
        self._asked: dict[str, _Greeting] = {}
        self._newcomers: dict[str, _Newcomer] = {}
        self._turned_away: set[str] = set()

    @property
    def verify(self) -> Verify | None:
        """Checks signatures; None in a federation without keys."""
        return None if self.register.nodes is None else self.register.verify

    def refresh(self) -> None:
        """Forget the nodes that have gone, greet the new ones."""
        present, now = set(self.link.addresses()), self._clock()
        for address in [a for a in self.members if a not in present]:
            self.say(f"node {self.members.pop(address).name} has gone")
        self._turned_away &= present
        self._asked = {k: one for k, one in self._asked.items() if one.address in present}
        self._admit_newcomers(present)
        known = self.members.keys() | self._newcomers.keys() | self._turned_away
        waiting = {one.address for one in self._asked.values() if one.sent > now - HELLO_SECONDS}
        for address in sorted(present - known - waiting):
            self._greet(address)

    def take(self, name: str, answer: Buffers | None) -> None:
        """Admit or turn away whoever answers a greeting; other answers are nobody's."""
        greeting = self._asked.pop(name, None)
        if greeting is None:
            return
        address = greeting.address
        if answer is None:
            self.lost(address)
            return
        self._asked = {k: one for k, one in self._asked.items() if one.address != address}
        try:
            said = unpack_reply(greeting.message, answer, Introduction, self.verify)
            self._admit(address, *said)
        except Exception as error:
            self._turn_away(address, fault_of(error))

    def absent(self) -> dict[str, list[int]]:
        """Enrolled nodes that are not here, with their clients; none are known without keys."""
        here = {member.name for member in self.members.values()}
        enrolled = self.register.nodes or {}
        return {name: node.clients for name, node in enrolled.items() if name not in here}

    def lost(self, address: str) -> None:
        """Forget a node that went away in the middle of something: it is greeted again."""
        self.members.pop(address, None)

    def tell_last(self, outbox: Outbox, run: str, busy: Collection[str]) -> None:
        """Tell nodes the receipts of links that no instruction follows, and that they lack.

        Args:
            busy: addresses of those that still train: they would not hear of it in time.
        """
        waiting, deadline = {}, time.monotonic() + LAST_SECONDS
        for member in self.members.values():
            notice = outbox.notice(run, member.name)
            if notice is not None and member.address not in busy:
                waiting[self.link.send(member.address, pack_request(notice))] = member, notice
        while waiting and (left := deadline - time.monotonic()) > 0:
            for name, answer in self.link.answers(min(left, 1.0)):
                member, notice = waiting.pop(name, (None, None))
                if member is not None and answer is not None:
                    outbox.was_told(member.name, notice)

    def _admit(self, address: str, signer: str, intro: Introduction) -> None:
        if intro.name != signer:
            raise PayloadError(f"node {signer}: introduces itself as {intro.name}")
        if intro.protocol != PROTOCOL or intro.versions.get("photon") != photon.__version__:
            raise PayloadError(
                f"node {signer}: has photon {intro.versions.get('photon')}, protocol "
                f"{intro.protocol}; here is photon {photon.__version__}, protocol {PROTOCOL}"
            )
        allowed = self.register.allowed(signer, intro.clients)
        beyond = format_clients(set(intro.clients) - allowed)
        note = f"; it offers {beyond} too, which its key is not bound to" if beyond else ""
        said = cleaned(f"node {signer} hosts clients {', '.join(map(str, sorted(allowed)))}{note}")
        member = Member(signer, address, frozenset(allowed), intro.holds)
        former = self._former(member)
        if former is None:
            self._join(member, said)
        elif former.address == address:
            self._keep_name(former)
        else:
            self.say(f"node {signer} is here at two addresses: the first is asked if it lives")
            self._newcomers[address] = _Newcomer(member, said, self._clock() + NAME_SECONDS)
            self._greet(former.address)

    def _greet(self, address: str) -> None:
        message = pack_request(Hello())
        greeting = _Greeting(address, message, self._clock())
        self._asked[self.link.send(address, message)] = greeting

    def _former(self, member: Member) -> Member | None:
        """Who has the name of a node."""
        return next((one for one in self.members.values() if one.name == member.name), None)

    def _join(self, member: Member, said: str) -> None:
        self.members[member.address] = member
        self.say(said)

    def _admit_newcomers(self, present: Collection[str]) -> None:
        """Those whose name is free now: what had it has gone, or says nothing any more."""
        for address, one in list(self._newcomers.items()):
            former = self._former(one.member)
            if address not in present:
                self._newcomers.pop(address)
            elif former is None or self._clock() > one.until:
                self._newcomers.pop(address)
                if former is not None:
                    self.members.pop(former.address)
                self._join(one.member, one.said)

    def _keep_name(self, member: Member) -> None:
        """It lives, so whoever has come with its name since is another one."""
        for address, one in list(self._newcomers.items()):
            if one.member.name == member.name:
                reason = (
                    f"a node of the name {member.name} is here already: end one of the two, or "
                    "give this one a --name of its own"
                )
                self._turn_away(address, reason)

    def _turn_away(self, address: str, reason: str) -> None:
        self.members.pop(address, None)
        self._newcomers.pop(address, None)
        self._turned_away.add(address)
        self.say(f"turned away: {reason}")
        self.link.send(address, pack_request(TurnedAway(reason=reason)))
