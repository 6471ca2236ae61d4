"""Where payload bytes go when they are not in the messages: shared memory, an object store.

A ticket says how to get a payload: `via`, digest and size, and what that transport needs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from photon.config.schema import Machine
from photon.container.container import ContainerRef, copy_container, verify_container
from photon.errors import ConfigError, PayloadError, StorageError
from photon.machine.owned_folder import PATTERN, make_folder
from photon.wire.messages import Ticket

SHARED = Path("/dev/shm")


class Transport(Protocol):
    """The server's side of a transport."""

    def offer(self, path: Path, ref: ContainerRef) -> Ticket:
        """Make a payload available; the ticket travels in the instruction."""
        ...

    def grant(self) -> Ticket:
        """Where a node may put one update."""
        ...

    def locate(self, ticket: Ticket) -> Ticket:
        """A node's ticket as `fetch_ticket` takes it.

        Raises:
            PayloadError: it is not where the node was told to put it.
        """
        ...

    def withdraw(self, ticket: Ticket) -> None:
        """Delete what was offered, or what has come."""
        ...

    def close(self) -> None: ...


def open_transport(config: Machine, run: str) -> Transport | None:
    """The transport that `photon.transport` names; None: payloads travel in the messages.

    Raises:
        ConfigError: `transport=s3` without `photon.transport_url`, or `obstore` is missing.
    """
    if config.transport == "inline":
        return None
    if config.transport == "shm":
        return SharedMemory.create(run)
    if config.transport_url is None:
        raise ConfigError("photon.transport_url: name s3://BUCKET/PREFIX for photon.transport=s3")
    from photon.wire.object_store import ObjectStore

    return ObjectStore(config.transport_url, run)


def fetch_ticket(ticket: Ticket, path: Path) -> None:
    """Bring a payload here, verified.

    Raises:
        PayloadError: it is not there, or not what its digest says.
    """
    ref = ContainerRef.from_json(ticket)
    if ticket.get("via") == "shm":
        _fetch_shared(ticket, ref, path)
    elif ticket.get("via") == "s3":
        from photon.wire.signed_urls import fetch

        fetch(ticket, ref, path)
    else:
        raise PayloadError(f"payload {ref.digest[:12]}: no transport {ticket.get('via')!r}")


class SharedMemory:
    """Payloads in a folder in memory, for processes of one host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, run: str) -> SharedMemory:
        return cls(make_folder(_root(), f"{run}-"))

    def offer(self, path: Path, ref: ContainerRef) -> Ticket:
        place = self.folder / ref.digest
        if not place.exists():
            try:
                _link_or_copy(path, place, ref)
            except StorageError as error:
                raise StorageError(
                    f"{error}; shared memory is full? choose another photon.transport"
                ) from error
        return {"via": "shm", "path": str(place), **ref.to_json()}

    def grant(self) -> Ticket:
        return {"via": "shm"}

    def locate(self, ticket: Ticket) -> Ticket:
        """In shared memory, whatever else the ticket says of the way."""
        return {**ticket, "via": "shm"}

    def withdraw(self, ticket: Ticket) -> None:
        """An update's place is a node's; it is this user's all the same."""
        _place(ticket, ContainerRef.from_json(ticket)).unlink(missing_ok=True)

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


def _fetch_shared(ticket: Mapping[str, object], ref: ContainerRef, path: Path) -> None:
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


def _link_or_copy(source: Path, path: Path, ref: ContainerRef) -> bool:
    """Whether it is a link: nobody has read what it holds. A copy is verified.

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
