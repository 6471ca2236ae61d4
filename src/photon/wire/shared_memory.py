"""Payloads in a folder in memory, for processes of one host."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from photon.container.container import ContainerRef, copy_container, verify_container
from photon.errors import PayloadError, StorageError
from photon.machine.owned_folder import PATTERN, make_folder
from photon.wire.messages import Ticket
from photon.wire.transport import Receiving, ServerSide, Stop, Transport

SHARED = Path("/dev/shm")


class SharedMemory(ServerSide):
    """Either side, see `NodeSide` too: a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, name: str) -> SharedMemory:
        return cls(make_folder(_root(), f"{name}-"))

    def offer(
        self,
        path: Path,
        ref: ContainerRef,
        grant: Ticket | None = None,
        should_stop: Stop = lambda: False,
    ) -> Ticket:
        place = self.folder / ref.digest
        if not place.exists():
            try:
                _link_or_copy(path, place, ref)
            except StorageError as error:
                raise StorageError(
                    f"{error}; shared memory is full? choose another photon.transport"
                ) from error
        return {"via": "shm", "path": str(place), **ref.to_json()}

    def grant(self, clients: int, most: int) -> Ticket:
        return {"via": "shm"}

    def receive(self, ticket: Ticket, ref: ContainerRef, path: Path) -> Receiving:
        yield from ()
        self.fetch(ticket, ref, path, lambda: False)
        self.withdraw(ticket)

    @staticmethod
    def fetch(ticket: Ticket, ref: ContainerRef, path: Path, should_stop: Stop) -> None:
        """Take over the file where the file system allows, else copy it."""
        source = _place(ticket, ref)
        if not source.is_file():
            raise PayloadError(f"{source}: cannot be read (no such file)")
        if _link_or_copy(source, path, ref):
            try:
                verify_container(path, ref)
            except PayloadError:
                path.unlink(missing_ok=True)
                raise

    def withdraw(self, ticket: Ticket) -> None:
        """An update's place is a node's; it is this user's all the same."""
        _place(ticket, ContainerRef.from_json(ticket)).unlink(missing_ok=True)

    def forget(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _root() -> Path:
    return SHARED if SHARED.is_dir() else Path(tempfile.gettempdir())


def _place(ticket: Mapping[str, object], ref: ContainerRef) -> Path:
    """Where a ticket says that a payload lies.

    Raises:
        PayloadError: a ticket can name files of that digest in folders of ours, and no other ones.
    """
    place = Path(str(ticket.get("path")))
    folder = place.parent
    if place.name != ref.digest or folder.parent != _root() or not folder.match(PATTERN):
        raise PayloadError(f"payload {ref.digest[:12]}: {place} is no place of shared memory")
    return place


def _link_or_copy(source: Path, path: Path, ref: ContainerRef) -> bool:
    """Whether the file is linked, whose content nobody has read; or else it is copied and verified.

    Raises:
        PayloadError: not what `ref` names.
        StorageError: no room.
    """
    path.unlink(missing_ok=True)
    try:
        os.link(source, path)
        return True
    except OSError:
        copy_container(source, path, ref)
        return False


SHARED_MEMORY = Transport(
    lambda photon, run: SharedMemory.create(run), lambda stores: SharedMemory.create("node")
)
