"""Nodes elsewhere: instructions go out over a link, updates come back through a transport."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from photon.chain.receipts import Outbox
from photon.config.between.travel import travel_digest, travelling
from photon.config.resolve import Run
from photon.core.messages import Arrival, Failure, RoundPlan, Update
from photon.core.policy import may_be_asked
from photon.core.traffic import Traffic
from photon.errors import PhotonError, RoundFailed
from photon.machine.clock import SYSTEM, Clock
from photon.machine.waiting import Waiting
from photon.run.base import Base
from photon.secure.fixed_point import Trees
from photon.server.attempts import Attempts
from photon.server.depot import Depot
from photon.server.errand import Conversation, Errand, Outcome, Talk, fault_of
from photon.server.link import Desk, Link
from photon.server.masked_nodes import OverNodes
from photon.server.roster import Member, Roster
from photon.server.rules import rules_of
from photon.wire.buffers import Buffers
from photon.wire.enrolment import format_clients
from photon.wire.facts import InstructionFacts
from photon.wire.messages import Cancel, Train, pack_request

POLL_SECONDS = 0.2
DURATIONS_KEPT = 10_000
"""Of the newest updates, whose median says when a client is late; it is taken at every poll."""


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """An errand that has begun."""

    of: Attempts
    address: str
    errand: Errand
    conversation: Conversation[Outcome]
    begun: float


class RemoteEngine:
    """Trains the cohort on the nodes of a roster; see `Engine`.

    Args:
        run: what nodes need of it travels to them.
        data: what their data must agree with.
        say: takes lines for the user.
        hint: says more of what is awaited, as of a node on this machine.
        clock: that of the link.

    Attributes:
        outbox: of what nodes are told of the run's chain; None: there is no key.
    """

    can_be_late = True

    def __init__(
        self,
        run: Run,
        data: dict[str, Any],
        link: Link,
        roster: Roster,
        depot: Depot,
        say: Callable[[str], None],
        hint: Callable[[], str] = str,
        clock: Clock = SYSTEM,
    ) -> None:
        self.outbox: Outbox | None = None
        self.run, self.data, self.say, self.clock = run, data, say, clock
        self._sent = travelling(run.model_dump(mode="json"))
        self._digest = travel_digest(self._sent)
        self.link, self.roster, self.depot = link, roster, depot
        self._desk, self._waiting, self._hint = Desk(link), Waiting(say, clock), hint
        self.durations: deque[float] = deque(maxlen=DURATIONS_KEPT)
        self._all_came, self._traffic = False, Traffic()
        self._errands: dict[str, _UnderWay] = {}
        self._cancelled: dict[str, list[int]] = {}
        self._arrived_late: list[Update] = []
        self._devices: dict[str, int] = {}
        self._holds: dict[str, tuple[Member, str | None]] = {}
        self._homes: dict[int, str] = {}

    @property
    def devices(self) -> int:
        """Of the nodes that are here; one of each that has not said how many it has."""
        return sum(self._devices.get(n.name, 1) for n in self.roster.members.values()) or 1

    @property
    def busy(self) -> int:
        return len(self._training() | self._owing())

    def alive(self, should_stop: Callable[[], bool]) -> list[int]:
        """Clients that can take part: waits for `photon.n_nodes` nodes the first time, later for a
        quorum; in an asynchronous run for anybody who trains, or can.

        Raises:
            RoundFailed: too few have come within `photon.join_timeout` seconds.
        """
        fl, photon = self.run.federation, self.run.machine
        needed = fl.needed
        deadline = self.clock() + photon.join_timeout
        while not should_stop():
            self._listen(None, 0.0 if fl.is_async and self._may_begin() else POLL_SECONDS)
            here = self._free()
            nodes = len(self.roster.members)
            enough = len(here) >= needed or (fl.is_async and self.busy)
            if enough and (self._all_came or nodes >= photon.nodes):
                self._all_came = True
                self._waiting.is_over()
                return self._may_come(here)
            self._waiting.tell(self._awaited(nodes, len(here)))
            if self.clock() > deadline:
                raise RoundFailed(
                    f"{nodes} nodes with {len(here)} clients are here after "
                    f"{photon.join_timeout:.0f} s (photon.join_timeout); {photon.nodes} nodes "
                    f"(photon.n_nodes) and {needed} clients (fl.quorum) are needed"
                )
        return []

    def _awaited(self, nodes: int, clients: int) -> str:
        absent = [f"{name} (clients {format_clients(its)})"
                  for name, its in self.roster.absent().items()]  # fmt: skip
        return (
            f"for nodes: {nodes} here of {self.run.machine.nodes} (photon.n_nodes), with "
            f"{clients} clients of {self.run.federation.needed} (fl.quorum)"
            + (f"; not here: {', '.join(absent)}" if absent else "")
            + self._hint()
        )

    def _free(self) -> list[int]:
        fl = self.run.federation
        hosts = self.roster.members.values()
        here = {c for node in hosts for c in node.clients if c < fl.population}
        needed = 0 if fl.is_async else fl.needed
        return may_be_asked(here, self._training(), self._owing(), needed)

    def _training(self) -> set[int]:
        return {client for one in self._errands.values() for client in one.errand.clients}

    def _owing(self) -> set[int]:
        return {client for update in self._arrived_late for client in update.clients}

    def _may_come(self, here: list[int]) -> list[int]:
        """Those that are here; in an asynchronous run of all clients the others too, so that one
        which comes while a merge is open begins at once.
        """
        fl = self.run.federation
        if not fl.is_async or fl.cohort_size < fl.population:
            return here
        return may_be_asked(range(fl.population), self._training(), self._owing(), 0)

    def run_round(
        self, plan: RoundPlan, base: Base, waiting: deque[int], should_stop: Callable[[], bool]
    ) -> Generator[Arrival, None, None]:
        current = Attempts(plan, waiting, self.say)
        yield from self._take_late()
        in_use = {p.ref.digest for one in self._errands.values() for p in one.errand.way.payloads}
        self.depot.publish(plan, base, in_use)
        while (waiting or self._is_training(current)) and not should_stop():
            yield from self._hand_out(current)
            self._tell_idle(current)
            yield from self._listen(current)
            yield from self._take_late()
            yield None

    def _is_training(self, current: Attempts) -> bool:
        if self.run.federation.is_async:  # whoever trains for an earlier merge comes in this one
            return bool(self._errands)
        return any(one.of is current for one in self._errands.values())

    def _tell_idle(self, current: Attempts) -> None:
        """A round in which nobody trains, for want of nodes, is a wait like any other."""
        if not current.waiting or self._is_training(current):
            self._waiting.is_over()
            return
        where = f"in round {current.plan.round} for a node with clients "
        self._waiting.tell(f"{where}{format_clients(current.waiting)}{self._hint()}")

    def cancel(self, before: int) -> None:
        for name in [n for n, one in self._errands.items() if one.of.plan.round < before]:
            one = self._errands.pop(name)
            self._traffic.add(one.errand.traffic)
            self._cancelled[name] = one.errand.clients
            self.link.send(one.address, pack_request(Cancel(run=self.run.name, before=before)))

    def close(self) -> None:
        if self.outbox is not None:
            busy = {one.address for one in self._errands.values()}
            self.roster.tell_last(self.outbox, self.run.name, busy)
        self.cancel(before=sys.maxsize)
        self.link.close()
        self.depot.close()

    def _take_late(self) -> list[Update]:
        arrived, self._arrived_late = self._arrived_late, []
        return arrived

    def parties(
        self,
        plan: RoundPlan,
        updates: Mapping[int, Update],
        like: Trees,
        should_stop: Callable[[], bool],
    ) -> OverNodes:
        here = self.roster.members
        talks = {a: Talk(here[a].name, [], self.roster.verify, self._traffic)
                 for a in set(self._homes.values()) if a in here}  # fmt: skip
        rules = rules_of(self.run.federation, can_be_late=True)
        return OverNodes(
            self._homes, talks, self.depot, like, self._exchange, rules, self.clock, should_stop
        )

    def _exchange(
        self, conversations: Mapping[str, Conversation[None]], is_over: Callable[[], bool]
    ) -> None:
        """Have these conversations, by address, until they have ended or time is up."""
        waiting: dict[str, tuple[str, Conversation[None]]] = {}

        def go_on(address: str, one: Conversation[None], answer: Buffers | None) -> None:
            with contextlib.suppress(StopIteration):
                waiting[self._desk.send(address, one.send(answer))] = address, one

        for address, one in conversations.items():
            go_on(address, one, None)
        while waiting and not is_over():
            self.roster.refresh()
            for name, answer in self._desk.answers(POLL_SECONDS):
                address, one = waiting.pop(name, ("", None))
                if one is None:
                    self._hear(None, name, answer)
                    continue
                if answer is None:
                    self.roster.lost(address)
                go_on(address, one, answer)
                del answer

    def take_traffic(self) -> Traffic:
        """What has been sent since the last time."""
        counted, self._traffic = self._traffic, Traffic()
        return counted

    def _hand_out(self, current: Attempts) -> list[Update | Failure]:
        """Have idle nodes train who waits; gives what came of those that cannot begin."""
        arrivals: list[Update | Failure] = []
        busy = {one.address for one in self._errands.values()}
        hosts = {address: node.clients for address, node in self.roster.members.items()}
        for address, clients in current.place(hosts, busy).items():
            arrivals += self._begin(current, self.roster.members[address], clients)
        return arrivals

    def _begin(
        self, current: Attempts, member: Member, clients: list[int]
    ) -> list[Update | Failure]:
        try:
            errand = self._errand(current.plan, member, clients)
        except PhotonError as error:
            return [*current.try_again(member.name, dict.fromkeys(clients, fault_of(error)))]
        self._holds[member.name] = member, current.plan.base_digest
        begun = _UnderWay(current, member.address, errand, errand.converse(), self.clock())
        return self._go_on(current, begun, None)

    def _errand(self, plan: RoundPlan, member: Member, clients: list[int]) -> Errand:
        way = self.depot.way(self._held_by(member))
        train = Train(
            run=self.run.name,
            round=plan.round,
            config=self._sent,
            config_digest=self._digest,
            data=self.data,
            base=way.base,
            steps=way.steps,
            instructions=[InstructionFacts(**asdict(plan.instructions[c])) for c in clients],
            upload=self.depot.grants(clients),
            notice=self.outbox and self.outbox.notice(self.run.name, member.name),
        )
        key = self.roster.register.key_of(member.name)
        return Errand(member.name, train, self.depot, way, self.roster.verify, key)

    def _held_by(self, member: Member) -> str | None:
        """The base that a node was led to last; of one that has just come, what it says."""
        known, digest = self._holds.get(member.name, (None, None))
        return digest if known is member else member.holds

    def _may_begin(self) -> bool:
        """Whether a merge can be opened without waiting for an answer."""
        return self._all_came and bool(self.busy or self._free())

    def _listen(
        self, current: Attempts | None, seconds: float = POLL_SECONDS
    ) -> list[Update | Failure]:
        """Take what has come in, greet who is new; gives what came of the open round."""
        arrivals: list[Update | Failure] = []
        self.roster.refresh()
        for name, answer in self._desk.answers(seconds):
            arrivals += self._hear(current, name, answer)
            del answer  # its memory, before the next one comes
        return arrivals

    def _hear(
        self, current: Attempts | None, name: str, answer: Buffers | None
    ) -> list[Update | Failure]:
        one = self._errands.pop(name, None)
        if one is None:
            if (clients := self._cancelled.pop(name, None)) and answer is not None:
                self._traffic.sent(clients, answer.size)  # with updates that are too late
            self.roster.take(name, answer)
            return []
        if answer is None:
            self.roster.lost(one.address)
        return self._go_on(current, one, answer)

    def _go_on(
        self, current: Attempts | None, one: _UnderWay, answer: Buffers | None
    ) -> list[Update | Failure]:
        """Say what comes next in a conversation, at first to no answer; gives what came of it."""
        try:
            said = one.conversation.send(answer)
        except StopIteration as done:
            return self._end(current, one, done.value)
        self._errands[self._desk.send(one.address, said)] = one
        return []

    def _end(
        self, current: Attempts | None, one: _UnderWay, outcome: Outcome
    ) -> list[Update | Failure]:
        node = one.errand.node
        self._traffic.add(outcome.traffic)
        if outcome.devices is None:  # it has not begun, or went away: it may hold nothing
            self._holds[node] = self._holds[node][0], None
        else:
            self._devices[node] = outcome.devices
            if self.outbox is not None:
                self.outbox.was_told(node, one.errand.train.notice)
        if one.of is current:
            return self._settle(one, outcome)
        self._settle_late(one, outcome)
        return []

    def _settle_late(self, one: _UnderWay, outcome: Outcome) -> None:
        self._arrived_late += outcome.updates.values()
        self.durations += one.errand.durations(outcome, self.clock() - one.begun)
        for client, reason in outcome.failed.items():
            who = f"client {client} on node {one.errand.node}, late for round {one.of.plan.round}"
            self.say(f"{who}: {reason}")

    def _settle(self, one: _UnderWay, outcome: Outcome) -> list[Update | Failure]:
        """What came of an errand."""
        self.durations += one.errand.durations(outcome, self.clock() - one.begun)
        arrivals: list[Update | Failure] = [*outcome.updates.values()]
        self._homes |= dict.fromkeys(outcome.updates, one.address)
        if outcome.has_left:
            self.roster.lost(one.address)
        return arrivals + one.of.settle(one.errand.node, one.address, outcome)
