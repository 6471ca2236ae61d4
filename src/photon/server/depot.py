"""The server's payloads: the base of the open round, and updates put aside as they come."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from photon.container.container import ContainerRef, open_container, write_container
from photon.core.messages import RoundPlan
from photon.core.parts import parts_of
from photon.errors import PayloadError
from photon.run.base import Base, received_of
from photon.wire.messages import Get, Piece, Put, Ticket, most_update_bytes
from photon.wire.transport import ServerSide


class Publication(NamedTuple):
    """The base of a round, on its way to the nodes; an instruction has its ticket."""

    path: Path
    ref: ContainerRef
    ticket: Ticket


class Depot:
    """Keeps payloads in files: an update that has come needs no memory until it is reduced.

    Args:
        folder: made anew; a resumed round fetches its updates again.
    """

    def __init__(self, folder: Path, transport: ServerSide) -> None:
        self.folder, self.transport = folder, transport
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._published: Publication | None = None

    def publish(self, plan: RoundPlan, base: Base) -> Publication:
        """Make the base of a round available, and forget the last round's payloads.

        Args:
            base: its file is sent where clients receive all of it.
        """
        self._forget()
        if plan.sent is None:
            path = base.file.result()
        else:
            path = self.folder / f"base-{plan.round:06d}"
            write_container(path, *parts_of(received_of(base.sent, plan.sent)), ref=base.ref)
        self._published = Publication(path, base.ref, self.transport.offer(path, base.ref))
        return self._published

    def pieces(self) -> Iterable[Put]:
        """What of the base goes ahead of an instruction; nothing if its ticket is enough."""
        assert self._published is not None
        return self.transport.pieces(self._published.path, self._published.ref)

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
        yield from self.transport.receive(ticket, ref, path)
        return open_container(path)

    def close(self) -> None:
        self._forget()
        self.transport.close()

    def _forget(self) -> None:
        if self._published is not None:
            self.transport.withdraw(self._published.ticket)
        self._published = None
        for path in self.folder.iterdir():
            path.unlink()
