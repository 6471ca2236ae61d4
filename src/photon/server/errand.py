"""One node's part in a round: what is said to it, message by message, and what comes of it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from torch import Tensor

from photon.chain.said import entry_of
from photon.container.container import ContainerRef
from photon.core.messages import Origin, Update
from photon.core.text import cleaned
from photon.core.traffic import Traffic, kinds_up
from photon.errors import DataError, PayloadError, PhotonError
from photon.server.depot import Depot, Way, beside_messages
from photon.server.link import Work
from photon.wire.buffers import Buffers
from photon.wire.facts import InstructionFacts, update_of
from photon.wire.messages import (
    Closed,
    Get,
    Kept,
    Piece,
    Ticket,
    Train,
    Trained,
    Verify,
    pack_request,
    unpack_reply,
)

NEARLY = 0.9
"""Share of the training that a node tells of which must fit into the errand's time by our clock:
the node's own runs a little differently.
"""
MAX_EXCUSES = 10
"""Attempts of a client in a round that do not count, since the base did not arrive. A link may be
slow; but a node that goes away more often than that dies of its base.
"""

ReplyT = TypeVar("ReplyT", bound=Closed)
T = TypeVar("T")
Conversation = Generator[Buffers | Work, Buffers | None, T]
"""Yields messages, takes their answers (None: the node went away), returns what came of it.

It also yields work of this machine, and is gone on with once that is done.
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Updates and reasons, by client.

    Attributes:
        has_left: the node is being stopped, so who has no update has not failed.
        is_excused: the base has not come, which is nobody's fault: nor has anybody failed then.
        devices: of the node, if it has begun, and said how many.
        traffic: what has gone to the node and come from it.
    """

    updates: dict[int, Update] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    has_left: bool = False
    is_excused: bool = False
    devices: int | None = None
    traffic: Traffic = field(default_factory=Traffic)


class WentAway(PayloadError):
    """A node, without an answer."""

    def __init__(self) -> None:
        super().__init__("the node went away")


@dataclass(frozen=True, slots=True)
class Talk:
    """How a node is spoken to.

    Attributes:
        node: who must answer.
        clients: of that node, for whom it is; bytes are counted as theirs.
        verify: checks its signatures; None in a federation without keys.
        traffic: what has gone so far.
    """

    node: str
    clients: list[int]
    verify: Verify | None
    traffic: Traffic = field(default_factory=Traffic)

    def ask(self, request: Closed, kind: type[ReplyT]) -> Conversation[ReplyT]:
        """Raises:
        PayloadError: the node went away, refuses, or is another one.
        """
        message = pack_request(request)
        self.traffic.received(self.clients, message.size)
        answer = yield message
        if answer is None:
            raise WentAway
        self.traffic.sent(self.clients, answer.size)
        signer, reply = unpack_reply(message, answer, kind, self.verify)
        if signer != self.node:
            raise PayloadError(f"node {self.node} is now {signer}")
        return reply

    def fetch(
        self, depot: Depot, client: int, ticket: Ticket
    ) -> Conversation[tuple[dict[str, Tensor], dict[str, Any]]]:
        """Tensors and facts of the payload that a client has sent.

        Raises:
            PayloadError: as `ask`; it is not what its ticket says.
        """
        receiving = depot.receive(client, ticket)
        try:
            wanted = next(receiving)
            while True:
                wanted = receiving.send((yield from self._waited(wanted)))
        except StopIteration as done:
            found = done.value
        self.traffic.sent([client], beside_messages(ticket))
        return found

    def _waited(self, wanted: Get | Work) -> Conversation[Piece | None]:
        """The piece that a node is asked for; nothing of work, which is done then."""
        if isinstance(wanted, Get):
            return (yield from self.ask(wanted, Piece))
        yield wanted
        return None


@dataclass(frozen=True, slots=True)
class Errand:
    """Clients to be trained by a node.

    Attributes:
        node: who must answer.
        way: to the base, from what the node holds.
        verify: checks its signatures; None in a federation without keys.
        key: its public key.
        traffic: what has gone so far.
    """

    node: str
    train: Train
    depot: Depot
    way: Way
    verify: Verify | None
    key: str = ""
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def clients(self) -> list[int]:
        return [instruction.client for instruction in self.train.instructions]

    def converse(self) -> Conversation[Outcome]:
        """Bring the base, have the clients trained, fetch their updates."""
        is_half_there = False
        kept: dict[str, int] = {}
        try:
            for piece in self.depot.pieces(self.way):
                if piece.offset + piece.data.size <= kept.get(piece.digest, 0):
                    continue  # it came before the link was cut off
                kept[piece.digest] = (yield from self.talk.ask(piece, Kept)).until
                is_half_there = True
            is_half_there = False
            trained = yield from self.talk.ask(self.train, Trained)
            self.traffic.received(self.clients, self.way.beside)
            self.traffic.were_tensors({}, self.way.kinds)
        except Exception as error:
            failed = dict.fromkeys(self.clients, self._reason(error))
            # A node whose last errand was cancelled may lack the base that a difference is to: the
            # next time it is sent all. One that went away between pieces keeps those that it has.
            excused = is_half_there if isinstance(error, WentAway) else bool(self.way.steps)
            return Outcome(failed=failed, is_excused=excused, traffic=self.traffic)
        has_begun = bool(trained.updates or trained.failed) or not trained.leaving
        devices = trained.devices if has_begun else None
        outcome = Outcome(has_left=trained.leaving, devices=devices, traffic=self.traffic)
        for client in self.clients:
            if any(client in update.covers for update in outcome.updates.values()):
                continue
            try:
                outcome.updates[client] = yield from self._fetch(client, trained)
            except Exception as error:
                outcome.failed[client] = self._reason(error)
        return outcome

    def _reason(self, error: Exception) -> str:
        """A fault, for lines that say already whose it is."""
        return fault_of(error).removeprefix(f"node {self.node}: ")

    def _fetch(self, client: int, trained: Trained) -> Conversation[Update]:
        if client not in trained.updates:
            raise PayloadError(trained.failed.get(client, "no update came"))
        ticket = trained.updates[client]
        update = update_of(*(yield from self.talk.fetch(self.depot, client, ticket)))
        self.traffic.were_tensors(kinds_up(update), {})
        if update.client != client or not set(update.covers) <= set(self.clients):
            raise PayloadError(f"sent clients {update.clients} in place of client {client}")
        return self._signed(update, ticket, trained.signatures.get(client, b""))

    def _signed(self, update: Update, ticket: Ticket, signature: bytes) -> Update:
        """The update with where it comes from, once that is proven.

        Raises:
            PayloadError: it is not signed by the node that sends it.
        """
        ref = ContainerRef.from_json(ticket)
        if self.verify is None:
            return replace(update, origin=Origin(ref.digest, ref.size, self.node))
        kept = signature.hex() if self.key else ""  # other kinds of keys are not written down
        update = replace(update, origin=Origin(ref.digest, ref.size, self.node, self.key, kept))
        if not self.verify(self.node, entry_of(update).statement(update.run), signature):
            raise PayloadError("its update is not signed with the key enrolled for its name")
        return update

    def durations(self, outcome: Outcome, seconds: float) -> list[float]:
        """How long the update of each client took: all of them as long as the errand.

        None are given where the node tells of more training than fits into that time. It has then
        sent what it had kept of an earlier attempt, and the time says nothing.

        Args:
            seconds: that the errand took.
        """
        asked = {one.client: one for one in self.train.instructions}
        updates = outcome.updates.values()
        told = sum(_least_seconds(update, asked[update.client]) for update in updates)
        is_whole = seconds * (outcome.devices or 1) >= NEARLY * told
        return [seconds] * sum(len(update.clients) for update in updates) if is_whole else []

    @property
    def talk(self) -> Talk:
        return Talk(self.node, self.clients, self.verify, self.traffic)


def _least_seconds(update: Update, asked: InstructionFacts) -> float:
    """For how long a client says that it has trained since it was asked, at least.

    What it tells covers the steps, too, that it took ahead, before it was asked: they are left out.
    """
    speed = update.metrics.get("tokens_per_second", 0.0)
    whole = update.num_tokens / speed if speed > 0 else 0.0
    told = max(whole, update.metrics.get("train_seconds", 0.0))
    return told * (1 - asked.ahead / asked.local_steps)


def fault_of(error: Exception) -> str:
    """An error in what a node, or the store between, has sent, as a reason: neither ends a server.

    An error that nobody has foreseen is a fault of the server's, and is called so.

    Raises:
        PhotonError: the error itself, where it is not theirs: a full disk, for one.
    """
    if isinstance(error, PayloadError | DataError):
        return cleaned(str(error))
    if isinstance(error, PhotonError):
        raise error
    return cleaned(f"its answer met a fault of the server: {type(error).__name__}: {error}")
