"""Checksums of a file that say where it is damaged, fed piece by piece."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Any

BLOCK_BYTES = 1 << 24
"""Bytes that one CRC-32 covers; a damaged shard is named with the offset of its block."""


class Checksum:
    """SHA-256 of everything fed so far, and CRC-32 of each block of `BLOCK_BYTES`.

    The SHA-256 decides whether a file is what was written; the others only find the place.

    Attributes:
        size: bytes so far.
    """

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._blocks: list[int] = []

    def update(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        self._sha256.update(view)
        while view:
            filled = self.size % BLOCK_BYTES
            piece, view = view[: BLOCK_BYTES - filled], view[BLOCK_BYTES - filled :]
            before = self._blocks.pop() if filled else 0
            self._blocks.append(zlib.crc32(piece, before))
            self.size += len(piece)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def blocks(self) -> list[int]:
        return list(self._blocks)


def shard_entry(path: Path, rows: int) -> dict[str, Any]:
    """What a manifest says about a shard that is on disk."""
    checksum = Checksum()
    with open(path, "rb") as file:
        while data := file.read(BLOCK_BYTES):
            checksum.update(data)
    return {
        "file": path.name,
        "rows": rows,
        "bytes": checksum.size,
        "sha256": checksum.sha256,
        "block_crc32": checksum.blocks,
    }
