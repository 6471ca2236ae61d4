"""One node's part in a round: what is said to it, message by message, and what comes of it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from photon.core.messages import Update
from photon.core.text import cleaned
from photon.errors import PayloadError, PhotonError
from photon.server.depot import Depot, Publication
from photon.wire.buffers import Buffers
from photon.wire.facts import update_of
from photon.wire.messages import (
    Closed,
    Done,
    Piece,
    Train,
    Trained,
    Verify,
    pack_request,
    unpack_reply,
)

ReplyT = TypeVar("ReplyT", bound=Closed)
Conversation = Generator[Buffers, Buffers | None, "Outcome"]
"""Yields messages, takes their answers (None: the node went away), returns what came of it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Updates and reasons, by client.

    Attributes:
        has_left: the node is being stopped, so who has no update has not failed.
    """

    updates: dict[int, Update] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    has_left: bool = False


def converse(
    node: str, train: Train, publication: Publication, depot: Depot, verify: Verify | None
) -> Conversation:
    """Bring the base, have the clients trained, fetch their updates.

    Args:
        node: who must answer.
    """
    clients = [instruction.client for instruction in train.instructions]
    try:
        for piece in publication.pieces():
            yield from _ask(node, piece, Done, verify)
        trained = yield from _ask(node, train, Trained, verify)
    except Exception as error:
        return Outcome(failed=dict.fromkeys(clients, _reason(error, node)))
    outcome = Outcome(has_left=trained.leaving)
    for client in clients:
        if any(client in update.covers for update in outcome.updates.values()):
            continue
        try:
            update = yield from _fetch(node, client, clients, trained, depot, verify)
            outcome.updates[client] = update
        except Exception as error:
            outcome.failed[client] = _reason(error, node)
    return outcome


def fault_of(error: Exception) -> str:
    """What a node's answer has brought about, as a reason: no answer ends a server.

    An error that nobody has foreseen is one of ours, and is called so.

    Raises:
        PhotonError: it has nothing to do with the node, as a full disk.
    """
    if isinstance(error, PhotonError) and not isinstance(error, PayloadError):
        raise error
    if isinstance(error, PayloadError):
        return cleaned(str(error))
    return cleaned(f"its answer met a fault of the server: {type(error).__name__}: {error}")


def _reason(error: Exception, node: str) -> str:
    """A fault, for lines that say already whose it is."""
    return fault_of(error).removeprefix(f"node {node}: ")


def _fetch(
    node: str,
    client: int,
    asked: list[int],
    trained: Trained,
    depot: Depot,
    verify: Verify | None,
) -> Generator[Buffers, Buffers | None, Update]:
    if client not in trained.updates:
        raise PayloadError(trained.failed.get(client, "no update came"))
    receiving = depot.receive(client, trained.updates[client])
    try:
        wanted = next(receiving)
        while True:
            wanted = receiving.send((yield from _ask(node, wanted, Piece, verify)))
    except StopIteration as done:
        parts: tuple[Mapping[str, Any], Mapping[str, Any]] = done.value
    update = update_of(*parts)
    if update.client != client or not set(update.covers) <= set(asked):
        raise PayloadError(f"sent clients {update.clients} in place of client {client}")
    return update


def _ask(
    node: str, request: Closed, kind: type[ReplyT], verify: Verify | None
) -> Generator[Buffers, Buffers | None, ReplyT]:
    message = pack_request(request)
    answer = yield message
    if answer is None:
        raise PayloadError("the node went away")
    signer, reply = unpack_reply(message, answer, kind, verify)
    if signer != node:
        raise PayloadError(f"node {node} is now {signer}")
    return reply
