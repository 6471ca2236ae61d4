"""Nodes elsewhere: instructions go out over a link, updates come back through a transport."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from photon.config.schema import Config
from photon.config.travel import travel_digest, travelling
from photon.core.gate import unsound
from photon.core.messages import RoundPlan, ServerState, Update
from photon.core.policy import assign, is_full, round_deadline
from photon.errors import RoundFailed
from photon.machine.waiting import Waiting
from photon.server.depot import Depot, Publication
from photon.server.errand import Conversation, Outcome, converse
from photon.server.link import Link
from photon.server.roster import Roster
from photon.wire.buffers import Buffers
from photon.wire.enrolment import format_clients
from photon.wire.facts import InstructionFacts
from photon.wire.messages import Cancel, Train, pack_request

MAX_ATTEMPTS = 3
"""How often a client is tried in a round, on whichever node, before it is left out."""
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class _Errand:
    """A conversation that is under way."""

    address: str
    node: str
    round: int
    clients: tuple[int, ...]
    conversation: Conversation
    begun: float


@dataclass(slots=True)
class _OpenRound:
    """A round in progress: who waits for a node, who is being trained, who has arrived.

    Attributes:
        sound: who has arrived with an update that will not be refused for itself.
    """

    plan: RoundPlan
    state: ServerState
    begun: float
    waiting: set[int]
    errands: dict[str, _Errand] = field(default_factory=dict)
    attempts: dict[int, list[str]] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    arrived: set[int] = field(default_factory=set)
    sound: set[int] = field(default_factory=set)

    @property
    def is_done(self) -> bool:
        return not self.waiting and not self.errands


class RemoteEngine:
    """Trains the cohort on the nodes of a roster; see `Engine`.

    Attributes:
        faults: of the last round: client -> why it has no update.

    Args:
        config: resolved; what nodes need of it travels to them.
        data: what their data must agree with.
        say: takes lines for the user.
        hint: says more of what is awaited, as of a node on this machine.
    """

    def __init__(
        self,
        config: Config,
        data: dict[str, Any],
        link: Link,
        roster: Roster,
        depot: Depot,
        say: Callable[[str], None],
        hint: Callable[[], str] = str,
    ) -> None:
        self.config, self.data, self.say = config, data, say
        self._sent = travelling(config)
        self._digest = travel_digest(self._sent)
        self.link, self.roster, self.depot = link, roster, depot
        self._waiting, self._hint = Waiting(say), hint
        self.faults: dict[int, str] = {}
        self._durations: list[float] = []
        self._all_came = False
        self._late: dict[str, _Errand] = {}
        self._arrived_late: list[Update] = []

    def alive(self, should_stop: Callable[[], bool]) -> list[int]:
        """Clients that can take part: waits for `photon.n_nodes` nodes once, then for a quorum.

        Raises:
            RoundFailed: too few have come within `photon.join_timeout` seconds.
        """
        fl, photon = self.config.fl, self.config.photon
        needed = fl.needed
        deadline = time.monotonic() + photon.join_timeout
        while not should_stop():
            self._listen(None)
            here = self._free()
            nodes = len(self.roster.members)
            if len(here) >= needed and (self._all_came or nodes >= photon.n_nodes):
                self._all_came = True
                self._waiting.is_over()
                return here
            self._waiting.tell(self._awaited(nodes, len(here)))
            if time.monotonic() > deadline:
                raise RoundFailed(
                    f"{nodes} nodes with {len(here)} clients are here after "
                    f"{photon.join_timeout:.0f} s (photon.join_timeout); {photon.n_nodes} nodes "
                    f"(photon.n_nodes) and {needed} clients (fl.quorum) are needed"
                )
        return []

    def _awaited(self, nodes: int, clients: int) -> str:
        absent = [f"{name} (clients {format_clients(its)})"
                  for name, its in self.roster.absent().items()]  # fmt: skip
        return (
            f"for nodes: {nodes} here of {self.config.photon.n_nodes} (photon.n_nodes), with "
            f"{clients} clients of {self.config.fl.needed} (fl.quorum)"
            + (f"; not here: {', '.join(absent)}" if absent else "")
            + self._hint()
        )

    def _free(self) -> list[int]:
        """Clients that may be asked: not those who are still at an earlier round, nor, while there
        are enough others, those whose late update has come and is not applied yet.
        """
        fl = self.config.fl
        at_it = {client for errand in self._late.values() for client in errand.clients}
        known = self.roster.clients() - at_it
        here = {client for client in known if client < fl.n_total_clients}
        fresh = here - {client for update in self._arrived_late for client in update.clients}
        return sorted(fresh if len(fresh) >= fl.needed else here)

    def run_round(
        self, plan: RoundPlan, state: ServerState, base: Path, should_stop: Callable[[], bool]
    ) -> Iterator[Update]:
        current = _OpenRound(plan, state, time.monotonic(), set(plan.cohort))
        self.faults = current.reasons
        yield from self._take_late()
        publication = self.depot.publish(plan, state)
        while not current.is_done and not self._is_over(current) and not should_stop():
            self._hand_out(current, publication)
            self._tell_idle(current)
            yield from self._listen(current)
            yield from self._take_late()
        for client in set(plan.cohort) - current.arrived - current.reasons.keys():
            current.reasons[client] = "late"
        self._late |= current.errands
        self._give_up(plan.round)

    def _tell_idle(self, current: _OpenRound) -> None:
        """A round in which nobody trains, for want of nodes, is a wait like any other."""
        if current.errands or not current.waiting:
            self._waiting.is_over()
            return
        clients = format_clients(current.waiting)
        self._waiting.tell(
            f"in round {current.plan.round} for a node with clients {clients}{self._hint()}"
        )

    def close(self) -> None:
        self._cancel(list(self._late))
        self.link.close()
        self.depot.close()

    def _give_up(self, round_number: int) -> None:
        """Cancel what is late; where late updates are taken, what is too late."""
        fl = self.config.fl
        keeps = 0 if fl.staleness_exponent is None else fl.max_staleness
        self._cancel([n for n, e in self._late.items() if e.round + keeps <= round_number])

    def _cancel(self, names: list[str]) -> None:
        for name in names:
            errand = self._late.pop(name)
            self.link.send(errand.address, pack_request(Cancel(run=str(self.config.run_uuid))))

    def _take_late(self) -> list[Update]:
        arrived, self._arrived_late = self._arrived_late, []
        return arrived

    def _is_over(self, current: _OpenRound) -> bool:
        """Whether the round has waited long enough for those that are missing."""
        fl, waited = self.config.fl, time.monotonic() - current.begun
        if is_full(current.plan, current.sound):
            return True
        if len(current.arrived) < fl.needed:
            return waited > fl.round_timeout
        return waited > round_deadline(
            self._durations,
            factor=fl.straggler_factor,
            shortest=min(fl.round_timeout_min, fl.round_timeout),
            longest=fl.round_timeout,
        )

    def _hand_out(self, current: _OpenRound, publication: Publication) -> None:
        errands = (*current.errands.values(), *self._late.values())
        busy = {errand.address for errand in errands}
        hosts = self.roster.hosting()
        instructed = current.plan.instructions
        for address, clients in assign(current.waiting, hosts, busy, current.attempts).items():
            train = Train(
                run=str(self.config.run_uuid),
                round=current.plan.round,
                config=self._sent,
                config_digest=self._digest,
                data=self.data,
                base=publication.ticket,
                instructions=[InstructionFacts(**asdict(instructed[c])) for c in clients],
                upload={c: self.depot.transport.grant(len(clients)) for c in clients},
            )
            node, verify = self.roster.members[address].name, self.roster.verify
            conversation = converse(node, train, publication, self.depot, verify)
            current.waiting -= set(clients)
            for client in clients:
                current.attempts.setdefault(client, []).append(address)
            errand = _Errand(
                address, node, current.plan.round, tuple(clients), conversation, time.monotonic()
            )
            current.errands[self.link.send(address, next(conversation))] = errand

    def _listen(self, current: _OpenRound | None) -> list[Update]:
        """Take what has come in, greet who is new; gives the updates of the open round."""
        updates: list[Update] = []
        self.roster.refresh()
        for name, answer in self.link.answers(POLL_SECONDS):
            updates += self._hear(current, name, answer)
            del answer  # its memory, before the next one comes
        return updates

    def _hear(self, current: _OpenRound | None, name: str, answer: Buffers | None) -> list[Update]:
        open_errands = current.errands if current and name in current.errands else self._late
        errand = open_errands.pop(name, None)
        if errand is None:
            self.roster.take(name, answer)
            return []
        if answer is None:
            self.roster.lost(errand.address)
        try:
            message = errand.conversation.send(answer)
            open_errands[self.link.send(errand.address, message)] = errand
        except StopIteration as done:
            if current is not None and open_errands is current.errands:
                return self._settle(current, errand, done.value)
            self._settle_late(errand, done.value)
        return []

    def _settle_late(self, errand: _Errand, outcome: Outcome) -> None:
        self._arrived_late += outcome.updates.values()
        for client, reason in outcome.failed.items():
            who = f"client {client} on node {errand.node}, late for round {errand.round}"
            self.say(f"{who}: {reason}")

    def _settle(self, current: _OpenRound, errand: _Errand, outcome: Outcome) -> list[Update]:
        """Count what came of an errand; clients without an update wait for another attempt."""
        if current.plan.spares:
            faults = {
                c: unsound(u, current.plan, current.state) for c, u in outcome.updates.items()
            }
            current.sound |= {client for client, fault in faults.items() if fault is None}
        for client in [c for update in outcome.updates.values() for c in update.clients]:
            current.arrived.add(client)
            current.reasons.pop(client, None)
            self._durations.append(time.monotonic() - errand.begun)
        if outcome.has_left:
            self._wait_for_another(current, errand, set(outcome.failed))
            return list(outcome.updates.values())
        for client, reason in outcome.failed.items():
            current.reasons[client] = f"node {errand.node}: {reason}"
            may_retry = len(current.attempts[client]) < MAX_ATTEMPTS
            what = "trying again" if may_retry else "left out of this round"
            self.say(f"client {client} on node {errand.node}: {reason}; {what}")
            if may_retry:
                current.waiting.add(client)
        return list(outcome.updates.values())

    def _wait_for_another(self, current: _OpenRound, errand: _Errand, clients: set[int]) -> None:
        """A node that is being stopped costs its clients no attempt: it may be stopped any time."""
        self.roster.lost(errand.address)
        self.say(f"node {errand.node} is being stopped")
        for client in clients:
            current.attempts[client].remove(errand.address)
            current.reasons[client] = f"node {errand.node}: was stopped"
        current.waiting |= clients
