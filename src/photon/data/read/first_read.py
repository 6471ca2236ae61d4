"""What is trained on is what was written: blocks of a shard are checked when first read."""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from photon.data.read import checksum
from photon.data.read.verify import REMEDY
from photon.errors import DataError


class FirstRead:
    """Compares each block of a shard with its manifest before the first row of it is used.

    A block is read once more for this, one after another; what was checked costs nothing. Shards
    without checksums of blocks are checked as a whole.

    Args:
        entry: of the shard in its manifest.
        vocab_size: no token may reach it.
    """

    def __init__(self, path: Path, entry: dict[str, Any], dtype: np.dtype, vocab_size: int) -> None:
        self.path, self.entry, self.dtype, self.vocab_size = path, entry, dtype, vocab_size
        self._sums: list[Any] = entry.get("block_crc32") or [entry["sha256"]]
        self._size = checksum.BLOCK_BYTES if entry.get("block_crc32") else entry["bytes"]
        self._unread = np.ones(-(-entry["bytes"] // self._size), dtype=bool)
        if len(self._sums) != len(self._unread):
            raise DataError(
                f"{path}: its manifest has {len(self._sums)} checksums for {len(self._unread)} "
                f"blocks; {REMEDY}"
            )

    def __call__(self, first: np.ndarray, row_bytes: int) -> bool:
        """Check the blocks of some rows.

        Args:
            first: offset in bytes of each row, [N].

        Returns:
            Whether blocks are left to be checked.

        Raises:
            DataError: a block is not what was written, or holds tokens outside the vocabulary.
        """
        edges = np.zeros(len(self._unread) + 1, dtype=np.int64)
        np.add.at(edges, first // self._size, 1)
        np.add.at(edges, (first + row_bytes - 1) // self._size + 1, -1)
        for block in np.flatnonzero((edges.cumsum()[:-1] > 0) & self._unread).tolist():
            self._check(block)
            self._unread[block] = False
        return bool(self._unread.any())

    def _check(self, block: int) -> None:
        start = block * self._size
        stop = min(start + self._size, self.entry["bytes"])
        data = self._read(start, stop)
        expected = self._sums[block]
        found = zlib.crc32(data) if type(expected) is int else hashlib.sha256(data).hexdigest()
        if found != expected:
            raise DataError(
                f"{self.path}: was changed between offset {start:,} and {stop:,} since it was "
                f"prepared; {REMEDY}"
            )
        largest = int(np.frombuffer(data, dtype=self.dtype).max(initial=0))
        if largest >= self.vocab_size:
            raise DataError(
                f"{self.path}: holds token {largest}, but the vocabulary has {self.vocab_size}; "
                "prepare the data again with the model's tokenizer"
            )

    def _read(self, start: int, stop: int) -> bytes:
        try:
            with open(self.path, "rb") as file:
                return os.pread(file.fileno(), stop - start, start)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror}); {REMEDY}") from error
