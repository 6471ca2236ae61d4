"""Payloads that travel inside messages, a piece at a time."""

from __future__ import annotations

import os
from pathlib import Path

from photon.errors import PayloadError, StorageError
from photon.runtime.payload import PayloadRef, read_payload


def read_chunk(path: Path, offset: int, length: int) -> bytes:
    """A piece of a file; shorter at its end.

    Raises:
        PayloadError: no such piece.
    """
    if offset < 0 or length < 1:
        raise PayloadError(f"{path.name}: no piece of {length} bytes at {offset}")
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(length)
    except OSError as error:
        raise PayloadError(f"{path.name}: cannot be read ({error.strerror})") from error


class ChunkWriter:
    """Puts a payload together from pieces in any order; memory for one piece only.

    Args:
        path: appears when all is there and verified.
        ref: what it must become.
    """

    def __init__(self, path: Path, ref: PayloadRef) -> None:
        self.path, self.ref = path, ref
        self._part = path.with_name(path.name + ".part")
        self._spans: dict[int, int] = {}
        self._part.unlink(missing_ok=True)

    def write(self, offset: int, data: bytes) -> None:
        """Add a piece; one that is there already may come again.

        Raises:
            PayloadError: it is outside the payload or overlaps another.
            StorageError: the disk is full.
        """
        end = offset + len(data)
        if offset < 0 or not data or end > self.ref.size:
            raise PayloadError(f"payload {self.ref.digest[:12]}: no room for a piece at {offset}")
        if self._spans.get(offset) == end:
            return
        if any(start < end and offset < stop for start, stop in self._spans.items()):
            raise PayloadError(f"payload {self.ref.digest[:12]}: pieces overlap at {offset}")
        try:
            with open(os.open(self._part, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                file.seek(offset)
                file.write(data)
        except OSError as error:
            raise StorageError(f"{self._part}: cannot write ({error.strerror})") from error
        self._spans[offset] = end

    def missing(self) -> list[tuple[int, int]]:
        """Spans [start, end) that have not come."""
        gaps, at = [], 0
        for start, end in sorted(self._spans.items()):
            if start > at:
                gaps.append((at, start))
            at = end
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
            read_payload(self._part, self.ref)
        except PayloadError:
            self._part.unlink(missing_ok=True)
            raise
        os.replace(self._part, self.path)
