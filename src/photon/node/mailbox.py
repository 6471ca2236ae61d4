"""Payloads of a node: the base that came, the updates that wait to be fetched."""

from __future__ import annotations

from pathlib import Path

from photon.container.container import ContainerRef
from photon.core.messages import Broadcast
from photon.errors import PayloadError
from photon.run.checkpoint import load_base
from photon.wire.buffers import Buffers
from photon.wire.chunks import UNFINISHED, ChunkWriter, read_chunk
from photon.wire.messages import MAX_INLINE_BYTES, Get, Piece, Put, Ticket
from photon.wire.stores import Origin, require_allowed
from photon.wire.transport import SharedMemory, fetch_ticket


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
        self._arriving: dict[str, ChunkWriter] = {}
        self._waiting: dict[str, Path] = {}
        self._shared: SharedMemory | None = None
        self._offered: list[Ticket] = []

    def take(self, piece: Put) -> None:
        """Put a piece of the coming base aside; other unfinished ones are given up."""
        if piece.digest not in self._arriving:
            ref = ContainerRef.from_json(piece.model_dump(include={"digest", "size"}))
            self._arriving = {piece.digest: ChunkWriter(self._base(piece.digest), ref)}
        self._arriving[piece.digest].write(piece.offset, piece.data.view())

    def bring_base(self, ticket: Ticket) -> tuple[Path, Broadcast]:
        """The base that a ticket names, verified; earlier ones are deleted.

        Raises:
            PayloadError: it cannot be had, or is not what its digest says.
        """
        ref = ContainerRef.from_json(ticket)
        path = self._base(ref.digest)
        if not path.exists():
            self._fetch(ticket, ref, path)
            self._forget()
        for other in self.folder.glob("base-*"):
            if other != path:
                other.unlink()
        return path, load_base(path)

    def offer(self, path: Path, ref: ContainerRef, grant: Ticket) -> Ticket:
        """Make an update available in the way that the server has asked for."""
        via = grant.get("via", "inline")
        if via == "s3":
            from photon.wire.signed_urls import upload

            require_allowed(grant, self.stores)
            return upload(path, ref, grant)
        if via == "shm":
            self._shared = self._shared or SharedMemory.create("node")
            ticket = self._shared.offer(path, ref)
            self._offered.append(ticket)
            return ticket
        ticket = {"via": "inline", **ref.to_json()}
        if ref.size <= grant.get("most", MAX_INLINE_BYTES):
            return ticket | {"data": Buffers(read_chunk(path, 0, ref.size))}
        self._waiting[ref.digest] = path
        return ticket

    def give(self, wanted: Get) -> Piece:
        path = self._waiting.get(wanted.digest)
        if path is None:
            raise PayloadError(f"payload {wanted.digest[:12]}: not waiting here")
        data = read_chunk(path, wanted.offset, min(wanted.length, MAX_INLINE_BYTES))
        return Piece(data=Buffers(data))

    def close(self) -> None:
        if self._shared is not None:
            self._shared.close()

    def _forget(self) -> None:
        """With another base, the updates to the last one are of no use to the server."""
        self._waiting.clear()
        for ticket in self._offered:
            assert self._shared is not None
            self._shared.withdraw(ticket)
        self._offered.clear()

    def _base(self, digest: str) -> Path:
        return self.folder / f"base-{digest}"

    def _fetch(self, ticket: Ticket, ref: ContainerRef, path: Path) -> None:
        if ticket.get("via") != "inline":
            require_allowed(ticket, self.stores)
            fetch_ticket(ticket, path)
            return
        if isinstance(ticket.get("data"), Buffers):
            writer = ChunkWriter(path, ref)
            writer.write(0, ticket["data"].view())
        else:
            writer = self._arriving.pop(ref.digest, None)
        if writer is None:
            raise PayloadError(f"payload {ref.digest[:12]}: no piece of it has come")
        writer.finish()
