"""The server's payloads: the base of the open round, and updates put aside as they come."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from photon.container.container import ContainerRef, open_container, write_container
from photon.core.messages import Broadcast, RoundPlan, ServerState
from photon.core.parts import parts_of
from photon.errors import PayloadError
from photon.run.checkpoint import sent_file
from photon.wire.buffers import Buffers
from photon.wire.chunks import ChunkWriter, read_chunk
from photon.wire.messages import MAX_INLINE_BYTES, Get, Piece, Put, Ticket, most_update_bytes
from photon.wire.transport import Transport, fetch_ticket


@dataclass(frozen=True, slots=True)
class Publication:
    """The base of a round, on its way to the nodes.

    Attributes:
        ticket: what an instruction says of it.
    """

    path: Path
    ref: ContainerRef
    ticket: Ticket

    def pieces(self) -> Iterator[Put]:
        """What must be sent ahead of the instruction; nothing if the ticket is enough."""
        in_pieces = self.ticket["via"] == "inline" and "data" not in self.ticket
        for offset in range(0, self.ref.size if in_pieces else 0, MAX_INLINE_BYTES):
            data = Buffers(read_chunk(self.path, offset, MAX_INLINE_BYTES))
            yield Put(digest=self.ref.digest, size=self.ref.size, offset=offset, data=data)


class Depot:
    """Keeps payloads in files: an update that has come needs no memory until it is reduced.

    Args:
        folder: made anew; a resumed round fetches its updates again.
        transport: None: payloads travel in the messages.
    """

    def __init__(self, folder: Path, transport: Transport | None = None) -> None:
        self.folder, self.transport = folder, transport
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._published: Publication | None = None

    def publish(self, plan: RoundPlan, state: ServerState, saved: Path) -> Publication:
        """Make the base of a round available, and forget the last round's payloads.

        Args:
            saved: the state's checkpoint, whose file is sent where clients receive all of it.
        """
        self._forget()
        if plan.sent is None:
            path, ref = sent_file(saved)
        else:
            path = self.folder / f"base-{plan.round:06d}"
            params = {name: state.params[name] for name in plan.sent}
            ref = write_container(path, *parts_of(Broadcast(params=params, moments=state.moments)))
        ticket = {"via": "inline", **ref.to_json()}
        if self.transport is not None:
            ticket = self.transport.offer(path, ref)
        elif ref.size <= MAX_INLINE_BYTES:
            ticket["data"] = Buffers(read_chunk(path, 0, ref.size))
        self._published = Publication(path, ref, ticket)
        return self._published

    def grant(self, plan: RoundPlan, clients: int) -> Ticket:
        """How updates of one request come back: a share of its answer, or a place to put them."""
        if self.transport is not None:
            return self.transport.grant()
        return {"via": "inline", "most": MAX_INLINE_BYTES // clients}

    def receive(
        self, client: int, ticket: Ticket
    ) -> Generator[Get, Piece, tuple[dict[str, Tensor], dict[str, Any]]]:
        """Fetch an update, asking for its pieces where it is in none of the places here.

        Raises:
            PayloadError: it is not what its ticket says.
        """
        ref = ContainerRef.from_json(ticket)
        if self._published is None or ref.size > most_update_bytes(self._published.ref.size):
            raise PayloadError(f"payload {ref.digest[:12]}: {ref.size} bytes are no update")
        path = self.folder / f"update-{client}-{ref.digest}"
        if self.transport is not None:
            fetch_ticket(self.transport.locate(ticket), path)
            self.transport.withdraw(ticket)
            return open_container(path)
        writer = ChunkWriter(path, ref)
        if isinstance(ticket.get("data"), Buffers):
            writer.write(0, ticket["data"].view())
        else:
            for offset in range(0, ref.size, MAX_INLINE_BYTES):
                length = min(MAX_INLINE_BYTES, ref.size - offset)
                piece = yield Get(digest=ref.digest, offset=offset, length=length)
                if piece.data.size != length:
                    raise PayloadError(f"payload {ref.digest[:12]}: a piece of another length")
                writer.write(offset, piece.data.view())
                del piece  # its memory, before the next one comes
        writer.finish()
        return open_container(path)

    def close(self) -> None:
        self._forget()
        if self.transport is not None:
            self.transport.close()

    def _forget(self) -> None:
        if self._published is not None and self.transport is not None:
            self.transport.withdraw(self._published.ticket)
        self._published = None
        for path in self.folder.iterdir():
            path.unlink()
