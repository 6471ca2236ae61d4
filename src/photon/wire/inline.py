"""Payloads in the messages: whole in the ticket if they are small, else in pieces of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from photon.container.container import ContainerRef
from photon.errors import PayloadError
from photon.wire.buffers import Buffers
from photon.wire.chunks import ChunkWriter, read_chunk
from photon.wire.messages import MAX_INLINE_BYTES, Get, Piece, Put, Ticket
from photon.wire.transport import NodeSide, Receiving, ServerSide, Stop, Transport


class InlineServer(ServerSide):
    def offer(self, path: Path, ref: ContainerRef) -> Ticket:
        return _ticket(path, ref, MAX_INLINE_BYTES)

    def pieces(self, path: Path, ref: ContainerRef) -> Iterator[Put]:
        for offset in range(0, ref.size, MAX_INLINE_BYTES):
            data = Buffers(read_chunk(path, offset, MAX_INLINE_BYTES))
            yield Put(digest=ref.digest, size=ref.size, offset=offset, data=data)

    def grant(self, clients: int, most: int) -> Ticket:
        return {"via": "inline", "most": MAX_INLINE_BYTES // clients}  # of one answer

    def receive(self, ticket: Ticket, ref: ContainerRef, path: Path) -> Receiving:
        writer = _begun(path, ref, ticket)
        for start, end in writer.missing():
            for offset in range(start, end, MAX_INLINE_BYTES):
                length = min(MAX_INLINE_BYTES, end - offset)
                piece = yield Get(digest=ref.digest, offset=offset, length=length)
                if piece.data.size != length:
                    raise PayloadError(f"payload {ref.digest[:12]}: a piece of another length")
                writer.write(offset, piece.data.view())
                del piece  # its memory, before the next one comes
        writer.finish()


class InlineNode(NodeSide):
    """Besides, it takes the pieces that come and gives those that are asked for."""

    def __init__(self) -> None:
        self._arriving: dict[str, ChunkWriter] = {}
        self._waiting: dict[str, Path] = {}

    def take(self, piece: Put, path: Path) -> int:
        """Put a piece of what becomes `path` aside; others that lack some are given up.

        Returns:
            How many bytes of it are there without a gap.
        """
        if piece.digest not in self._arriving:
            ref = ContainerRef.from_json({"digest": piece.digest, "size": piece.size})
            whole = {d: writer for d, writer in self._arriving.items() if not writer.missing()}
            self._arriving = {**whole, piece.digest: ChunkWriter(path, ref)}
        writer = self._arriving[piece.digest]
        writer.write(piece.offset, piece.data.view())
        return min((start for start, _ in writer.missing()), default=piece.size)

    def give(self, wanted: Get) -> Piece:
        path = self._waiting.get(wanted.digest)
        if path is None:
            raise PayloadError(f"payload {wanted.digest[:12]}: not waiting here")
        data = read_chunk(path, wanted.offset, min(wanted.length, MAX_INLINE_BYTES))
        return Piece(data=Buffers(data))

    def fetch(self, ticket: Ticket, ref: ContainerRef, path: Path, should_stop: Stop) -> None:
        (self._arriving.pop(ref.digest, None) or _begun(path, ref, ticket)).finish()

    def offer(self, path: Path, ref: ContainerRef, grant: Ticket, should_stop: Stop) -> Ticket:
        ticket = _ticket(path, ref, grant.get("most", MAX_INLINE_BYTES))
        if "data" not in ticket:
            self._waiting[ref.digest] = path
        return ticket

    def forget(self) -> None:
        self._waiting.clear()
        self._arriving.clear()


def in_one_message(tickets: Sequence[Ticket]) -> list[Ticket]:
    """The same tickets, with no more payload bytes in all of them than a message may have: the
    payloads of the others go ahead in pieces.
    """
    room, fitting = MAX_INLINE_BYTES, list[Ticket]()
    for ticket in tickets:
        size = ticket["data"].size if has_payload(ticket) else 0
        is_too_much = size > room
        room -= 0 if is_too_much else size
        fitting.append({k: v for k, v in ticket.items() if k != "data" or not is_too_much})
    return fitting


def has_payload(ticket: Ticket) -> bool:
    """Whether the bytes are in the ticket itself."""
    return isinstance(ticket.get("data"), Buffers)


def _ticket(path: Path, ref: ContainerRef, most: int) -> Ticket:
    """With the payload in it, if that has `most` bytes at the most."""
    data = {"data": Buffers(read_chunk(path, 0, ref.size))} if ref.size <= most else {}
    return {"via": "inline", **ref.to_json(), **data}


def _begun(path: Path, ref: ContainerRef, ticket: Ticket) -> ChunkWriter:
    """A payload on its way, with what the ticket has of it: all or nothing."""
    writer = ChunkWriter(path, ref)
    if has_payload(ticket):
        writer.write(0, ticket["data"].view())
    return writer


INLINE = Transport(lambda photon, run: InlineServer(), lambda stores: InlineNode())
