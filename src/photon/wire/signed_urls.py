"""Payloads to and from an object store by signed URLs: plain HTTPS, no key, little memory.

Several requests go on at a time: across a continent, one connection is a fraction of a link.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from photon.container.container import ContainerRef
from photon.errors import PayloadError
from photon.wire.chunks import ChunkWriter
from photon.wire.messages import Ticket
from photon.wire.stores import urls_of

CONNECTIONS = 4
PIECE_BYTES = 1 << 20
"""What is in memory at one time, for each connection."""
SPAN_BYTES = 64 << 20
"""Of one request for a part of an object."""
ATTEMPTS = 4
TIMEOUT_SECONDS = 60.0
LOOK_SECONDS = 0.2
"""Between two looks at whether to stop."""
BUSY = (408, 429)
"""Refusals that pass."""


class _Unmoved(urllib.request.HTTPRedirectHandler):
    """Follows nothing: a URL is for one host, and where it might lead nobody has checked."""

    def redirect_request(self, req, fp, code, msg, headers, newurl) -> None:
        return None


_open = urllib.request.build_opener(_Unmoved).open


def upload(path: Path, ref: ContainerRef, grant: Ticket, should_stop: Callable[[], bool]) -> Ticket:
    """Put a payload where a grant says, part by part.

    Args:
        should_stop: asked all the time; links that take nothing are given up then.

    Raises:
        PayloadError: it is larger than was granted, or the store refuses; or stopped, as asked.
    """
    urls, part = _layout(grant, ref)

    def put(start: int) -> None:
        put_part(urls[start // part], path, start, min(part, ref.size - start), should_stop)

    side_by_side(put, range(0, ref.size, part))
    return {"via": "s3", "key": grant.get("key"), **ref.to_json()}


def put_part(
    url: str, path: Path, start: int, length: int, should_stop: Callable[[], bool]
) -> None:
    """Put a piece of a file where a signed URL says.

    Raises:
        PayloadError: the store refuses; or stopped, as asked.
    """

    def attempt() -> None:
        headers = {"Content-Length": str(length), "Content-Type": "application/octet-stream"}
        data = _slices(path, start, length, should_stop)
        request = urllib.request.Request(url, data=data, method="PUT", headers=headers)
        _opened(request, should_stop).close()

    _retried(url, attempt)


def fetch(ticket: Ticket, ref: ContainerRef, path: Path, should_stop: Callable[[], bool]) -> None:
    """Bring a payload here, going on where an earlier attempt was cut off; then verify it.

    Args:
        should_stop: asked all the time; links that bring nothing are cut off then.

    Raises:
        PayloadError: the store refuses, or has something else; or stopped, as asked.
        StorageError: the disk is full.
    """
    urls, part = _layout(ticket, ref)
    writer = ChunkWriter(path, ref)

    def get(span: tuple[int, int]) -> None:
        index = span[0] // part
        _bring(urls[index], index * part, span, writer, should_stop)

    side_by_side(get, _cut(writer.missing(), part))
    writer.finish()


def _layout(ticket: Ticket, ref: ContainerRef) -> tuple[Sequence[str], int]:
    """Addresses of the objects that hold, or will hold, a payload, and bytes in each of them."""
    urls, part = urls_of(ticket), ticket.get("part")
    if not urls or not isinstance(part, int) or part < 1:
        raise PayloadError(f"payload {ref.digest[:12]}: its ticket has no URLs")
    if ref.size > part * len(urls):
        raise PayloadError(f"payload of {ref.size} bytes; {part * len(urls)} were granted")
    for url in urls:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise PayloadError(f"payload {ref.digest[:12]}: its ticket names no web address")
    return urls, part


def _cut(gaps: list[tuple[int, int]], part: int) -> Iterator[tuple[int, int]]:
    """Gaps in spans of one request each, none of them across two parts."""
    for start, end in gaps:
        while start < end:
            stop = min(end, start + SPAN_BYTES, (start // part + 1) * part)
            yield start, stop
            start = stop


def side_by_side(action: Callable, arguments: Iterable) -> None:
    """Do all, some at a time; after a failure none is begun any more."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        futures = [pool.submit(action, argument) for argument in arguments]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _retried(url: str, attempt: Callable[[], None], done: Callable[[], int] = int) -> None:
    """
    Args:
        done: bytes that are there: attempts that bring some are not counted, or a link that is cut
            again and again would never carry a large payload.
    """
    failed, before = 0, done()
    while True:
        try:
            return attempt()
        except (OSError, http.client.HTTPException) as error:
            failed, before = (failed if done() == before else 0) + 1, done()
            reason, is_final = _judged(error)
            if is_final or failed == ATTEMPTS:
                where = urllib.parse.urlsplit(url).netloc
                raise PayloadError(f"object store {where}: {reason}") from None
            time.sleep(0.5 * 2 ** (failed - 1))


def _judged(error: Exception) -> tuple[str, bool]:
    """What went wrong, with the store's own word for it, and whether it would go wrong again."""
    if not isinstance(error, urllib.error.HTTPError):
        return str(error), False
    body = b""
    with contextlib.suppress(OSError, http.client.HTTPException), error:
        body = error.read(4096)
    code = re.search(rb"<Code>(\w{1,60})</Code>", body)
    word = f" ({code[1].decode()})" if code else ""
    return f"{error}{word}", error.code < 500 and error.code not in BUSY


def _slices(
    path: Path, start: int, length: int, should_stop: Callable[[], bool]
) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(start)
        while not should_stop() and length > 0 and (piece := file.read(min(PIECE_BYTES, length))):
            length -= len(piece)
            yield piece


def _bring(
    url: str,
    base: int,
    span: tuple[int, int],
    writer: ChunkWriter,
    should_stop: Callable[[], bool],
) -> None:
    """One span of a payload, from the object that holds it from byte `base` on."""
    at, end = span

    def attempt() -> None:
        nonlocal at
        for piece in _range(url, at - base, end - base, should_stop):
            writer.write(at, piece)
            at += len(piece)
        if at < end:
            raise http.client.IncompleteRead(b"", end - at)

    _retried(url, attempt, lambda: at)


def _range(url: str, start: int, end: int, should_stop: Callable[[], bool]) -> Iterator[bytes]:
    """Bytes [start, end) of an object, a piece at a time; fewer where the link is cut."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-{end - 1}"})
    with _opened(request, should_stop) as response:
        if start and response.status != 206:
            where = urllib.parse.urlsplit(url).netloc
            raise PayloadError(f"object store {where}: gives no ranges of objects")
        with _cut_off(response, should_stop):
            while start < end and (piece := response.read(min(PIECE_BYTES, end - start))):
                start += len(piece)
                yield piece


def _opened(
    request: urllib.request.Request, should_stop: Callable[[], bool]
) -> http.client.HTTPResponse:
    """The response to a request; one that is not there when it is time to stop, nobody awaits."""
    opening: Future[http.client.HTTPResponse] = Future()

    def begin() -> None:
        try:
            opening.set_result(_open(request, timeout=TIMEOUT_SECONDS))
        except Exception as error:
            opening.set_exception(error)

    if not should_stop():
        threading.Thread(target=begin, daemon=True).start()
    while not should_stop():
        if wait([opening], LOOK_SECONDS).done:
            return opening.result()
    raise PayloadError("stopped while a payload was under way; what has come is kept")


@contextlib.contextmanager
def _cut_off(response: http.client.HTTPResponse, should_stop: Callable[[], bool]) -> Iterator[None]:
    """End the connection of a response as soon as asked: whoever reads may wait for a slow link."""
    is_read = threading.Event()

    def watch() -> None:
        while not is_read.wait(LOOK_SECONDS):
            if should_stop():
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                return

    with socket.socket(fileno=os.dup(response.fileno())) as connection:
        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        try:
            yield
        finally:
            is_read.set()
            watching.join()
