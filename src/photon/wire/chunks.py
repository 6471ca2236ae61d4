"""Payloads that travel inside messages, a piece at a time."""

from __future__ import annotations

import bisect
import os
import threading
from pathlib import Path

from photon.container.container import ContainerRef, map_file, verify_container
from photon.errors import PayloadError, StorageError

UNFINISHED = (".part", ".spans")
"""Suffixes of a payload that is coming: its pieces, and which of them are there."""


def read_chunk(path: Path, offset: int, length: int) -> memoryview:
    """A piece of a file, mapped; shorter at its end.

    Raises:
        PayloadError: no such piece.
    """
    if offset < 0 or length < 1:
        raise PayloadError(f"{path.name}: no piece of {length} bytes at {offset}")
    return map_file(path)[offset : offset + length]


class ChunkWriter:
    """Puts a payload together from pieces in any order, from any thread; one piece in memory.

    It goes on with the pieces that an earlier writer was given, in another process too.

    Args:
        path: appears when all is there and verified.
        ref: what it must become.
    """

    def __init__(self, path: Path, ref: ContainerRef) -> None:
        self.path, self.ref = path, ref
        self._part, self._log = (path.with_name(path.name + suffix) for suffix in UNFINISHED)
        self._head = f"{ref.digest} {ref.size}\n"
        self._spans: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        if not self._recall():
            self._discard()

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Add a piece; one that is there already may come again.

        Raises:
            PayloadError: it is outside the payload or overlaps another.
            StorageError: the disk is full.
        """
        span = offset, offset + len(data)
        with self._lock:
            at = bisect.bisect_left(self._spans, span)
            if self._spans[at : at + 1] == [span]:
                return
            place = self._place(*span)
            try:
                with open(os.open(self._part, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                    file.seek(offset)
                    file.write(data)
                with open(self._log, "a") as log:
                    log.write("" if log.tell() else self._head)
                    log.write(f"{offset} {span[1]}\n")
            except OSError as error:
                raise StorageError(f"{self._part}: cannot write ({error.strerror})") from error
            self._spans.insert(place, span)

    def missing(self) -> list[tuple[int, int]]:
        """Spans [start, end) that have not come."""
        ends = [0, *(end for _, end in self._spans)]
        starts = [*(start for start, _ in self._spans), self.ref.size]
        return [gap for gap in zip(ends, starts, strict=True) if gap[0] < gap[1]]

    def finish(self) -> None:
        """Verify what has come and put it in its place.

        Raises:
            PayloadError: pieces are missing, or it is not what the digest says.
        """
        if gaps := self.missing():
            raise PayloadError(
                f"payload {self.ref.digest[:12]}: bytes {gaps[0][0]} to {gaps[0][1]} have not come"
            )
        try:
            verify_container(self._part, self.ref)
        except PayloadError:
            self._discard()
            raise
        os.replace(self._part, self.path)
        self._log.unlink(missing_ok=True)

    def _place(self, start: int, end: int) -> int:
        """Where a span belongs among those that are there."""
        at = bisect.bisect(self._spans, (start, end))
        least = self._spans[at - 1][1] if at else 0
        most = self._spans[at][0] if at < len(self._spans) else self.ref.size
        if not least <= start < end <= most:
            raise PayloadError(f"payload {self.ref.digest[:12]}: no room for a piece at {start}")
        return at

    def _recall(self) -> bool:
        """Whether the pieces that are there are of this payload; a last line may be cut off."""
        try:
            first, *lines = self._log.read_text().splitlines(keepends=True)
            for start, end in (map(int, line.split()) for line in lines if line.endswith("\n")):
                self._spans.insert(self._place(start, end), (start, end))
        except (OSError, ValueError, PayloadError):
            return False
        return self._part.exists() and first == self._head

    def _discard(self) -> None:
        self._spans.clear()
        self._part.unlink(missing_ok=True)
        self._log.unlink(missing_ok=True)
