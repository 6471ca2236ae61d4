"""Payloads of a node: the base that came, the updates that wait to be fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from photon.container.container import (
    ContainerRef,
    map_file,
    open_container,
    ref_of,
    write_container,
)
from photon.core.codec import Codec
from photon.core.held import advanced
from photon.core.messages import Broadcast, Difference
from photon.core.parts import from_parts, parts_of
from photon.errors import PayloadError
from photon.run.checkpoint import load_base
from photon.wire.chunks import UNFINISHED
from photon.wire.inline import InlineNode
from photon.wire.messages import Get, Piece, Put, Ticket
from photon.wire.stores import Origin
from photon.wire.transport import NodeSide, transport_of

_BASE = "base-"


class Mailbox:
    """Args:
    folder: of what is in it, the last base and what was on its way outlive the process, to be gone
        on with; every other payload can be made again.
    stores: where signed URLs may lead.
    """

    def __init__(self, folder: Path, stores: frozenset[Origin] = frozenset()) -> None:
        self.folder, self.stores = folder, stores
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.suffix not in UNFINISHED and not _is_sound(path):
                path.unlink()
        self._inline = InlineNode()
        self._sides: dict[str, NodeSide] = {"inline": self._inline}

    def take(self, piece: Put) -> int:
        """Put a piece of the coming base aside; how much of it is there without a gap."""
        return self._inline.take(piece, self._base(piece.digest))

    def give(self, wanted: Get) -> Piece:
        """A piece of an update that waits here."""
        return self._inline.give(wanted)

    @property
    def holds(self) -> str:
        """Digest of the base that is here; empty: none is."""
        found = [one.name.removeprefix(_BASE) for one in self.folder.glob(f"{_BASE}{'?' * 64}")]
        return found[0] if len(found) == 1 else ""

    def bring_base(
        self,
        ticket: Ticket,
        steps: Sequence[Ticket],
        codec: Codec | None,
        first: Callable[[], Broadcast],
        should_stop: Callable[[], bool],
    ) -> tuple[Path, Broadcast]:
        """The base that a ticket names, verified; earlier ones are deleted.

        Args:
            steps: tickets of differences that make it of what is here.
            codec: of them.
            first: gives the base of the first round, of the seed.
            should_stop: asked while it comes; what has come then is gone on with.

        Raises:
            PayloadError: it cannot be had, or is not what its digest says; or stopped, as asked.
        """
        ref = ContainerRef.from_json(ticket)
        path = self._base(ref.digest)
        if not path.exists():
            if "via" in ticket:
                self._side(ticket).fetch(ticket, ref, path, should_stop)
            else:
                found = [self._step(ticket, should_stop) for ticket in steps]
                self._make(path, ref, found, codec, first)
            for side in self._sides.values():
                side.forget()
        for other in self.folder.glob(f"{_BASE}*"):
            if other != path:
                other.unlink()
        return path, load_base(path)

    def _make(
        self,
        path: Path,
        ref: ContainerRef,
        found: Sequence[Difference],
        codec: Codec | None,
        first: Callable[[], Broadcast],
    ) -> None:
        """Make a base of the one that is here, or of the seed.

        Raises:
            PayloadError: that, or a step from it, is missing, or what comes of them is another one.
        """
        base = self._held(found[0].before) if found else first()
        for step in found:
            if codec is None:
                raise PayloadError(f"payload {ref.digest[:12]}: no differences are configured")
            base = advanced(base, step, codec)
        made = write_container(path, *parts_of(base))
        if made != ref:
            path.unlink()
            raise PayloadError(
                f"payload {ref.digest[:12]}: what is here makes {made.digest[:12]} of it"
            )

    def _held(self, digest: str) -> Broadcast:
        if not self._base(digest).exists():
            raise PayloadError(
                f"payload {digest[:12]}: a difference to it has come; it is not here"
            )
        return load_base(self._base(digest))

    def _step(self, ticket: Ticket, should_stop: Callable[[], bool]) -> Difference:
        ref = ContainerRef.from_json(ticket)
        path = self._base(ref.digest)
        self._side(ticket).fetch(ticket, ref, path, should_stop)
        return from_parts(Difference, *open_container(path))

    def offer(
        self, path: Path, ref: ContainerRef, grant: Ticket, should_stop: Callable[[], bool]
    ) -> Ticket:
        """Make an update available in the way that the server has asked for.

        Raises:
            PayloadError: that is not possible here; or stopped, as asked.
        """
        return self._side(grant).offer(path, ref, grant, should_stop)

    def close(self) -> None:
        for side in self._sides.values():
            side.close()

    def _base(self, digest: str) -> Path:
        return self.folder / f"{_BASE}{digest}"

    def _side(self, ticket: Ticket) -> NodeSide:
        """That of the transport which a ticket names.

        Raises:
            PayloadError: there is none.
        """
        name = str(ticket.get("via", "inline"))
        if name not in self._sides:
            self._sides[name] = transport_of(name).node(self.stores)
        return self._sides[name]


def _is_sound(path: Path) -> bool:
    """Whether a file is the base that its name says."""
    try:
        return path.name == f"{_BASE}{ref_of(map_file(path)).digest}"
    except PayloadError:
        return False
