"""Payloads through S3: only the server has keys; nodes get URLs that are signed for one object.

A base lies under its digest, so a stale read is impossible. An update goes up in parts, each under
a name drawn for this one upload, so a part that fails is sent again by itself.
"""

from __future__ import annotations

import http.client
import os
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from photon.data.remote import RemoteFolder
from photon.errors import PayloadError
from photon.runtime.payload import PayloadRef, read_payload
from photon.runtime.wire import Ticket

PART_BYTES = 64 << 20
PIECE_BYTES = 1 << 20
"""What is in memory at one time."""
VALID = timedelta(days=7)
"""Of a signed URL: the longest that S3 allows."""
ATTEMPTS = 4
LARGEST = 3
"""An update in fp32 with two moments is three times the base at the most."""
TIMEOUT_SECONDS = 60.0


class ObjectStore:
    """The server's side; see `Transport`.

    Args:
        url: s3://bucket/prefix; credentials as for `photon.data.remote`.
    """

    def __init__(self, url: str, run: str) -> None:
        self._remote = RemoteFolder(f"{url.rstrip('/')}/{run}")
        self._parts = 1
        self._granted: set[str] = set()

    def offer(self, path: Path, ref: PayloadRef) -> Ticket:
        key = f"base/{ref.digest}"
        if self._remote.size(key) != ref.size:
            self._remote.write(key, path)
        urls = [self._remote.sign("GET", key, VALID)]
        self._parts = -(-(LARGEST * ref.size + PIECE_BYTES) // PART_BYTES)
        return {"via": "s3", "urls": urls, "part": ref.size, **ref.to_json()}

    def grant(self) -> Ticket:
        key = f"update/{secrets.token_hex(16)}"
        self._granted.add(key)
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
        urls = [self._remote.sign("GET", f"{key}/{i:05d}", VALID) for i in range(count)]
        return {"via": "s3", "key": key, "urls": urls, "part": PART_BYTES, **ref.to_json()}

    def withdraw(self, ticket: Ticket) -> None:
        ref = PayloadRef.from_json(ticket)
        key = ticket.get("key")
        if key is None:
            self._remote.delete(f"base/{ref.digest}")
        elif key in self._granted:
            self._granted.discard(key)
            for i in range(-(-ref.size // PART_BYTES)):
                self._remote.delete(f"{key}/{i:05d}")

    def close(self) -> None:
        """Nothing stays open."""


def upload(path: Path, ref: PayloadRef, grant: Ticket) -> Ticket:
    """Put a payload where a grant says, part by part.

    Raises:
        PayloadError: it is larger than was granted, or the store refuses.
    """
    urls, part = _layout(grant, ref)
    if ref.size > part * len(urls):
        raise PayloadError(f"payload of {ref.size} bytes; {part * len(urls)} were granted")
    for index, start in enumerate(range(0, ref.size, part)):
        _retried(urls[index], lambda url, s=start: _put(url, path, s, min(part, ref.size - s)))
    return {"via": "s3", "key": grant.get("key"), **ref.to_json()}


def fetch(ticket: Ticket, ref: PayloadRef, path: Path) -> None:
    """Bring a payload here, going on where an earlier attempt was cut off; then verify it.

    Raises:
        PayloadError: the store refuses, or has something else.
    """
    urls, part = _layout(ticket, ref)
    partial = path.with_name(path.name + ".part")
    if partial.exists() and partial.stat().st_size > ref.size:
        partial.unlink()
    for index, url in enumerate(urls):
        end = min((index + 1) * part, ref.size)
        _retried(url, lambda u, o=index * part, e=end: _get(u, partial, o, e))
    try:
        read_payload(partial, ref)
    except PayloadError:
        partial.unlink(missing_ok=True)
        raise
    os.replace(partial, path)


def _layout(ticket: Ticket, ref: PayloadRef) -> tuple[Sequence[str], int]:
    urls, part = ticket.get("urls") or [], ticket.get("part")
    sound = isinstance(urls, list) and urls and all(isinstance(url, str) for url in urls)
    if not sound or not isinstance(part, int) or part < 1:
        raise PayloadError(f"payload {ref.digest[:12]}: its ticket has no URLs")
    for url in urls:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise PayloadError(f"payload {ref.digest[:12]}: its ticket names no web address")
    return urls, part


def _retried(url: str, attempt: Callable[[str], None]) -> None:
    for count in range(ATTEMPTS):
        try:
            attempt(url)
            return
        except (OSError, http.client.HTTPException) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or count + 1 == ATTEMPTS:
                where = urllib.parse.urlsplit(url).netloc
                raise PayloadError(f"object store {where}: {error}") from None
            time.sleep(0.5 * 2**count)


def _put(url: str, path: Path, start: int, length: int) -> None:
    headers = {"Content-Length": str(length), "Content-Type": "application/octet-stream"}
    data = _slices(path, start, length)
    request = urllib.request.Request(url, data=data, method="PUT", headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
        return


def _slices(path: Path, start: int, length: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(start)
        while length > 0:
            piece = file.read(min(PIECE_BYTES, length))
            length -= len(piece)
            yield piece


def _get(url: str, partial: Path, offset: int, end: int) -> None:
    """Append [offset, end) of the payload, less what is there already."""
    have = partial.stat().st_size if partial.exists() else 0
    if have >= end:
        return
    headers = {"Range": f"bytes={have - offset}-{end - offset - 1}"}
    request = urllib.request.Request(url, headers=headers)
    with (
        urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response,
        open(partial, "ab") as file,
    ):
        while have < end and (piece := response.read(PIECE_BYTES)):
            piece = piece[: end - have]
            file.write(piece)
            have += len(piece)
    if have < end:
        raise http.client.IncompleteRead(b"", end - have)
