"""Payloads through S3: only the server has keys; nodes get URLs that are signed for one object.

A base lies under its digest, so a stale read is impossible. An update goes up in parts, each under
a name drawn for this one upload, so a part that fails is sent again by itself.
"""

from __future__ import annotations

import contextlib
import secrets
from datetime import timedelta
from pathlib import Path

from photon.data.remote import RemoteFolder
from photon.errors import DataError, PayloadError
from photon.runtime.payload import PayloadRef
from photon.runtime.wire import Ticket

PART_BYTES = 64 << 20
VALID = timedelta(days=7)
"""Of a signed URL: the longest that S3 allows."""
LARGEST = 3
"""An update in fp32 with two moments is three times the base at the most."""
HEADER_ROOM = 1 << 20
"""For the facts and names in which an update differs from a base."""


class ObjectStore:
    """The server's side; see `Transport`.

    Args:
        url: s3://bucket/prefix; credentials as for `photon.data.remote`.
    """

    folder: Path | None = None

    def __init__(self, url: str, run: str) -> None:
        self._remote = RemoteFolder(f"{url.rstrip('/')}/{run}")
        self._parts = 1
        self._granted: dict[str, int] = {}

    def offer(self, path: Path, ref: PayloadRef) -> Ticket:
        key = f"base/{ref.digest}"
        if self._remote.size(key) != ref.size:
            self._remote.write(key, path)
        urls = [self._remote.sign("GET", key, VALID)]
        self._parts = -(-(LARGEST * ref.size + HEADER_ROOM) // PART_BYTES)
        return {"via": "s3", "urls": urls, "part": ref.size, **ref.to_json()}

    def grant(self) -> Ticket:
        key = f"update/{secrets.token_hex(16)}"
        self._granted[key] = self._parts
        urls = [self._remote.sign("PUT", f"{key}/{i:05d}", VALID) for i in range(self._parts)]
        return {"via": "s3", "key": key, "urls": urls, "part": PART_BYTES}

    def locate(self, ticket: Ticket) -> Ticket:
        """The ticket of an update that a node has put where it was told, with URLs to read it.

        Raises:
            PayloadError: it was told nothing of the kind.
        """
        key, ref = ticket.get("key"), PayloadRef.from_json(ticket)
        if not isinstance(key, str) or key not in self._granted:
            raise PayloadError(f"payload {ref.digest[:12]}: lies where it was not asked to be put")
        count = -(-ref.size // PART_BYTES)
        if count > self._granted[key]:
            raise PayloadError(f"payload {ref.digest[:12]}: {ref.size} bytes are more than granted")
        urls = [self._remote.sign("GET", f"{key}/{i:05d}", VALID) for i in range(count)]
        return {"via": "s3", "key": key, "urls": urls, "part": PART_BYTES, **ref.to_json()}

    def withdraw(self, ticket: Ticket) -> None:
        key, ref = ticket.get("key"), PayloadRef.from_json(ticket)
        if key is None:
            self._remote.delete(f"base/{ref.digest}")
        elif key in self._granted:
            self._delete(key, -(-ref.size // PART_BYTES))

    def close(self) -> None:
        """Delete what nodes may have put and nobody has fetched."""
        with contextlib.suppress(DataError):  # the run has its result without
            for key, parts in list(self._granted.items()):
                self._delete(key, parts)

    def _delete(self, key: str, parts: int) -> None:
        for i in range(min(parts, self._granted.pop(key))):
            self._remote.delete(f"{key}/{i:05d}")
