"""Payloads of a node: the base that came, the updates that wait to be fetched."""

from __future__ import annotations

from pathlib import Path

from photon.container.container import ContainerRef
from photon.core.messages import Broadcast
from photon.run.checkpoint import load_base
from photon.wire.chunks import UNFINISHED
from photon.wire.inline import InlineNode
from photon.wire.messages import Get, Piece, Put, Ticket
from photon.wire.stores import Origin
from photon.wire.transport import NodeSide, transport_of


class Mailbox:
    """Args:
    folder: of what is in it, only a base that was on its way outlives the process, to be gone on
        with; every other payload can be made again.
    stores: where signed URLs may lead.
    """

    def __init__(self, folder: Path, stores: frozenset[Origin] = frozenset()) -> None:
        self.folder, self.stores = folder, stores
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.suffix not in UNFINISHED:
                path.unlink()
        self._inline = InlineNode()
        self._sides: dict[str, NodeSide] = {"inline": self._inline}

    def take(self, piece: Put) -> None:
        """Put a piece of the coming base aside."""
        self._inline.take(piece, self._base(piece.digest))

    def give(self, wanted: Get) -> Piece:
        """A piece of an update that waits here."""
        return self._inline.give(wanted)

    def bring_base(self, ticket: Ticket) -> tuple[Path, Broadcast]:
        """The base that a ticket names, verified; earlier ones are deleted.

        Raises:
            PayloadError: it cannot be had, or is not what its digest says.
        """
        ref = ContainerRef.from_json(ticket)
        path = self._base(ref.digest)
        if not path.exists():
            self._side(ticket).fetch(ticket, ref, path)
            for side in self._sides.values():
                side.forget()
        for other in self.folder.glob("base-*"):
            if other != path:
                other.unlink()
        return path, load_base(path)

    def offer(self, path: Path, ref: ContainerRef, grant: Ticket) -> Ticket:
        """Make an update available in the way that the server has asked for."""
        return self._side(grant).offer(path, ref, grant)

    def close(self) -> None:
        for side in self._sides.values():
            side.close()

    def _base(self, digest: str) -> Path:
        return self.folder / f"base-{digest}"

    def _side(self, ticket: Ticket) -> NodeSide:
        """That of the transport which a ticket names.

        Raises:
            PayloadError: there is none.
        """
        name = str(ticket.get("via", "inline"))
        if name not in self._sides:
            self._sides[name] = transport_of(name).node(self.stores)
        return self._sides[name]
