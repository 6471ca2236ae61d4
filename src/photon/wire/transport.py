"""How payload bytes go between server and nodes: in the messages, by shared memory, by a store.

A ticket says how to get a payload: `via`, digest and size, and what that transport needs. A
transport is named in `photon.points`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

from photon.config.schema import Machine
from photon.container.container import ContainerRef
from photon.errors import PayloadError
from photon.points import TRANSPORTS, find
from photon.wire.messages import Get, Piece, Put, Ticket
from photon.wire.stores import Origin

Receiving = Generator[Get, Piece, None]
"""Asks the node that holds a payload for pieces of it."""
Stop = Callable[[], bool]
"""Whether what takes long is to end before it is done."""


class ServerSide(Protocol):
    """What the server does with payloads; a transport's own class may inherit what does nothing."""

    def offer(self, path: Path, ref: ContainerRef) -> Ticket:
        """Make a payload available; the ticket travels in the instruction."""
        ...

    def pieces(self, path: Path, ref: ContainerRef) -> Iterable[Put]:
        """What must be sent ahead of the instruction; nothing if the ticket is enough."""
        return ()

    def grant(self, clients: int, most: int) -> Ticket:
        """How an update may come back in an answer that has the updates of `clients` clients.

        Args:
            most: bytes that it may have.
        """
        ...

    def receive(self, ticket: Ticket, ref: ContainerRef, path: Path) -> Receiving:
        """Bring a node's update here, verified; it is no longer kept elsewhere.

        Raises:
            PayloadError: it is not where the node was told to put it, or not what `ref` names.
        """
        ...

    def withdraw(self, ticket: Ticket) -> None:
        """Delete what was offered."""

    def close(self) -> None:
        """Delete all that is left."""


class NodeSide(Protocol):
    """What a node does with payloads."""

    def fetch(self, ticket: Ticket, ref: ContainerRef, path: Path, should_stop: Stop) -> None:
        """Bring a base here, verified.

        Args:
            should_stop: asked on the way, where that may be long.

        Raises:
            PayloadError: it is not there, or not what `ref` names; or stopped, as asked.
        """
        ...

    def offer(self, path: Path, ref: ContainerRef, grant: Ticket, should_stop: Stop) -> Ticket:
        """Make an update available as the server has granted; its file stays until `forget`.

        Args:
            should_stop: asked on the way, where that may be long.

        Raises:
            PayloadError: it cannot be; or stopped, as asked.
        """
        ...

    def forget(self) -> None:
        """Delete the updates: another base has come, so they are of no use to the server."""

    def close(self) -> None:
        """Delete all that is left."""


class Transport(NamedTuple):
    """Two sides that know each other's tickets.

    `server(photon, run)` opens the one for a run, `node(stores)` the other one, which may follow
    URLs to those stores alone. The tickets of both have the transport's name as `via`.
    """

    server: Callable[[Machine, str], ServerSide]
    node: Callable[[frozenset[Origin]], NodeSide]


def transport_of(name: str) -> Transport:
    """The transport of that name.

    Raises:
        PayloadError: there is none.
    """
    if name not in TRANSPORTS:
        raise PayloadError(f"payload: no transport {name[:80]!r}")
    return find(TRANSPORTS[name])
