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

    Args:
        path: appears when all is there and verified.
        ref: what it must become.
        resume: go on with the pieces that an earlier writer was given, in another process too.
    """

    def __init__(self, path: Path, ref: ContainerRef, *, resume: bool = False) -> None:
        self.path, self.ref = path, ref
        self._part, self._log = (path.with_name(path.name + suffix) for suffix in UNFINISHED)
        self._spans: dict[int, int] = {}
        self._starts: list[int] = []
        self._lock = threading.Lock()
        if not (resume and self._part.exists() and self._recall()):
            self._discard()
            if resume:
                self._note(f"{ref.digest} {ref.size}")
        self._resumes = resume

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Add a piece; one that is there already may come again.

        Raises:
            PayloadError: it is outside the payload or overlaps another.
            StorageError: the disk is full.
        """
        end = offset + len(data)
        if offset < 0 or not data or end > self.ref.size:
            raise PayloadError(f"payload {self.ref.digest[:12]}: no room for a piece at {offset}")
        with self._lock:
            if self._spans.get(offset) == end:
                return
            self._add(offset, end)
            try:
                with open(os.open(self._part, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                    file.seek(offset)
                    file.write(data)
                if self._resumes:
                    self._note(f"{offset} {end}")
            except OSError as error:
                self._starts.remove(offset)
                del self._spans[offset]
                raise StorageError(f"{self._part}: cannot write ({error.strerror})") from error

    def missing(self) -> list[tuple[int, int]]:
        """Spans [start, end) that have not come."""
        gaps, at = [], 0
        for start in self._starts:
            if start > at:
                gaps.append((at, start))
            at = self._spans[start]
        return gaps if at == self.ref.size else [*gaps, (at, self.ref.size)]

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

    def _add(self, start: int, end: int) -> None:
        at = bisect.bisect(self._starts, start)
        before = self._spans[self._starts[at - 1]] if at else 0
        after = self._starts[at] if at < len(self._starts) else self.ref.size
        if before > start or end > after:
            raise PayloadError(f"payload {self.ref.digest[:12]}: pieces overlap at {start}")
        self._starts.insert(at, start)
        self._spans[start] = end

    def _note(self, line: str) -> None:
        with open(self._log, "a") as file:
            file.write(line + "\n")

    def _recall(self) -> bool:
        """Whether the pieces that are there are of this payload; a last line may be cut off."""
        try:
            first, *lines = self._log.read_text().splitlines(keepends=True)
            for start, end in (map(int, line.split()) for line in lines if line.endswith("\n")):
                if not 0 <= start < end <= self.ref.size:
                    return False
                self._add(start, end)
        except (OSError, ValueError, PayloadError):
            return False
        return first == f"{self.ref.digest} {self.ref.size}\n"

    def _discard(self) -> None:
        self._spans.clear()
        self._starts.clear()
        self._part.unlink(missing_ok=True)
        self._log.unlink(missing_ok=True)
