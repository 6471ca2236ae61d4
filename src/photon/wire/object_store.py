"""Payloads through S3: only the server has keys; nodes get URLs that are signed for one object.

A base lies under its digest, so a stale read is impossible; an update under a name drawn for it.
Each goes up in parts that are objects of their own, so a part that fails is sent again by itself.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from photon.config.schema import Machine
from photon.container.container import ContainerRef
from photon.data.read.remote import RemoteFolder
from photon.errors import ConfigError, DataError, PayloadError, warn
from photon.wire.messages import Ticket
from photon.wire.signed_urls import fetch, put_part, side_by_side, upload
from photon.wire.stores import Origin, require_allowed
from photon.wire.transport import NodeSide, Receiving, ServerSide, Stop, Transport

PART_BYTES = 64 << 20
VALID = timedelta(days=7)
"""Of a signed URL: the longest that S3 allows."""


class ObjectStore(ServerSide):
    """Args:
    url: s3://bucket/prefix; credentials as for `photon.data.read.remote`.
    """

    def __init__(self, url: str, run: str) -> None:
        self._remote = RemoteFolder(f"{url.rstrip('/')}/{run}", create=True)
        self._granted: dict[str, int] = {}
        self._closed = threading.Event()
        self._has_swept = self._has_warned = False

    def offer(self, path: Path, ref: ContainerRef) -> Ticket:
        """Put a payload under its digest; parts that are there from an earlier attempt stay."""
        key = f"base/{ref.digest}"
        self._sweep(key)

        def put(index: int) -> None:
            name, start = _part(key, index), index * PART_BYTES
            length = min(PART_BYTES, ref.size - start)
            if self._remote.size(name) != length:
                url = self._remote.sign("PUT", name, VALID)
                put_part(url, path, start, length, self._closed.is_set)

        side_by_side(put, range(_count(ref.size)))
        return self._readable(key, ref)

    def grant(self, clients: int, most: int) -> Ticket:
        key = f"update/{secrets.token_hex(16)}"
        parts = self._granted[key] = _count(most)
        urls = [self._remote.sign("PUT", _part(key, i), VALID) for i in range(parts)]
        return {"via": "s3", "key": key, "urls": urls, "part": PART_BYTES}

    def receive(self, ticket: Ticket, ref: ContainerRef, path: Path) -> Receiving:
        yield from ()
        fetch(self.locate(ticket), ref, path, self._closed.is_set)
        self.withdraw(ticket)

    def locate(self, ticket: Ticket) -> Ticket:
        """The ticket of an update that a node has put where it was told, with URLs to read it.

        Raises:
            PayloadError: it was told nothing of the kind.
        """
        key, ref = ticket.get("key"), ContainerRef.from_json(ticket)
        if not isinstance(key, str) or key not in self._granted:
            raise PayloadError(f"payload {ref.digest[:12]}: lies where it was not asked to be put")
        if _count(ref.size) > self._granted[key]:
            raise PayloadError(f"payload {ref.digest[:12]}: {ref.size} bytes are more than granted")
        return {"key": key, **self._readable(key, ref)}

    def withdraw(self, ticket: Ticket) -> None:
        key, ref = ticket.get("key"), ContainerRef.from_json(ticket)
        with self._deleting():
            if key is None:
                self._delete(f"base/{ref.digest}", _count(ref.size))
            elif key in self._granted:
                self._delete(key, min(_count(ref.size), self._granted.pop(key, 0)))

    def close(self) -> None:
        """Delete what nodes may have put and nobody has fetched, or will any more."""
        self._closed.set()
        with self._deleting():
            while self._granted:
                self._delete(*self._granted.popitem())

    @contextlib.contextmanager
    def _deleting(self) -> Iterator[None]:
        """What is not deleted takes room and nothing else: the run has its result without."""
        try:
            yield
        except DataError as error:
            if not self._has_warned:
                self._has_warned = True
                warn(f"objects stay that nobody needs any more, delete them by hand: {error}")

    def _sweep(self, key: str) -> None:
        """Delete what an earlier server of this run has left, if it was killed."""
        if self._has_swept:
            return
        self._has_swept = True
        with contextlib.suppress(DataError):  # keys that may not list can do all else
            left = [*self._remote.names("base"), *self._remote.names("update")]
            ours = {key, *self._granted}
            old = [name for name in left if name.rpartition("/")[0] not in ours]
            side_by_side(self._remote.delete, old)

    def _readable(self, key: str, ref: ContainerRef) -> Ticket:
        """A ticket with URLs that allow to read a payload's parts."""
        urls = [self._remote.sign("GET", _part(key, i), VALID) for i in range(_count(ref.size))]
        return {"via": "s3", "urls": urls, "part": PART_BYTES, **ref.to_json()}

    def _delete(self, key: str, parts: int) -> None:
        side_by_side(self._remote.delete, [_part(key, i) for i in range(parts)])


class StoreNode(NodeSide):
    """Args:
    stores: where signed URLs may lead.
    """

    def __init__(self, stores: frozenset[Origin]) -> None:
        self.stores = stores

    def fetch(self, ticket: Ticket, ref: ContainerRef, path: Path, should_stop: Stop) -> None:
        require_allowed(ticket, self.stores)
        fetch(ticket, ref, path, should_stop)

    def offer(self, path: Path, ref: ContainerRef, grant: Ticket, should_stop: Stop) -> Ticket:
        require_allowed(grant, self.stores)
        return upload(path, ref, grant, should_stop)


def _server(photon: Machine, run: str) -> ObjectStore:
    """Raises:
    ConfigError: no `photon.transport_url`, or `obstore` is missing.
    """
    if photon.transport_url is None:
        raise ConfigError("photon.transport_url: name s3://BUCKET/PREFIX for photon.transport=s3")
    return ObjectStore(photon.transport_url, run)


OBJECT_STORE = Transport(_server, StoreNode)


def _part(key: str, index: int) -> str:
    return f"{key}/{index:05d}"


def _count(size: int) -> int:
    return -(-size // PART_BYTES)
