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

from photon.config.schema import PhotonConfig
from photon.errors import ConfigError, PayloadError, StorageError
from photon.runtime.payload import PayloadRef, read_payload
from photon.runtime.wire import Ticket

SHARED = Path("/dev/shm")


class Transport(Protocol):
    """The server's side of a transport."""

    def offer(self, path: Path, ref: PayloadRef) -> Ticket:
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
        """Delete what was offered, or what came."""
        ...

    def close(self) -> None: ...


def open_transport(config: PhotonConfig, run: str) -> Transport | None:
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
    from photon.runtime.object_store import ObjectStore

    return ObjectStore(config.transport_url, run)


def fetch_ticket(ticket: Ticket, path: Path) -> None:
    """Bring a payload here, verified.

    Raises:
        PayloadError: it is not there, or not what its digest says.
    """
    ref = PayloadRef.from_json(ticket)
    if ticket.get("via") == "shm":
        _fetch_shared(ticket, ref, path)
    elif ticket.get("via") == "s3":
        from photon.runtime.object_store import fetch

        fetch(ticket, ref, path)
    else:
        raise PayloadError(f"payload {ref.digest[:12]}: no transport {ticket.get('via')!r}")


class SharedMemory:
    """Payloads in a folder in memory, for processes of one host.

    The folder's name holds its owner's process id and start time: whoever makes the next one sweeps
    those whose owner has ended, so nothing stays behind a kill -9 for long.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, run: str) -> SharedMemory:
        root = SHARED if SHARED.is_dir() else Path(tempfile.gettempdir())
        sweep(root)
        folder = root / f"photon-{os.getpid()}-{_start_time(os.getpid())}-{run}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        return cls(folder)

    def offer(self, path: Path, ref: PayloadRef) -> Ticket:
        place = self.folder / ref.digest
        try:
            if not place.exists():
                temporary = place.with_suffix(".tmp")
                shutil.copyfile(path, temporary)
                os.replace(temporary, place)
        except OSError as error:
            raise StorageError(
                f"{place}: cannot write ({error.strerror}); shared memory is full? choose another "
                "photon.transport"
            ) from error
        return {"via": "shm", "path": str(place), **ref.to_json()}

    def grant(self) -> Ticket:
        return {"via": "shm"}

    def locate(self, ticket: Ticket) -> Ticket:
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        (self.folder / PayloadRef.from_json(ticket).digest).unlink(missing_ok=True)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def sweep(root: Path) -> None:
    """Delete the folders whose owner has ended."""
    for folder in root.glob("photon-*-*-*"):
        _, pid, started, _ = folder.name.split("-", 3)
        if pid.isdecimal() and _start_time(int(pid)) != started:
            shutil.rmtree(folder, ignore_errors=True)


def _start_time(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _fetch_shared(ticket: Mapping[str, object], ref: PayloadRef, path: Path) -> None:
    """Take over the file where the file system allows, else copy it.

    The name must be that of the digest in a folder of ours: a ticket cannot name any other file.
    """
    source = Path(str(ticket.get("path")))
    if source.name != ref.digest or not source.parent.name.startswith("photon-"):
        raise PayloadError(f"payload {ref.digest[:12]}: {source} is no place of shared memory")
    try:
        try:
            os.link(source, path)
        except OSError:
            shutil.copyfile(source, path)
    except OSError as error:
        raise PayloadError(f"{source}: cannot be read ({error.strerror})") from error
    try:
        read_payload(path, ref)
    except PayloadError:
        path.unlink(missing_ok=True)
        raise
