"""Token rows on disk: flat little-endian files, read by memory map, described by a manifest.

Row i of a shard is tokens [i S, i S + L], both ends included: L inputs and, one to the right, L
targets. With the stride S = L neighbours share one token, so no target is lost, and a shard is one
stream that can be read in rows of any length; S = L + 1 where rows do not run on over documents.
The manifest is written last: a folder without one is no data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from photon.data.manifest import MANIFEST, read_part
from photon.data.read.cache import Cache
from photon.data.read.first_read import FirstRead
from photon.errors import DataError


class RowSource(Protocol):
    """Random access to rows of one length, wherever they are.

    Attributes:
        folder: what messages name.
        manifest: counts, and what the text behind the rows is like.
        shard_rows: rows of each shard, in order.
    """

    folder: Path
    manifest: dict[str, Any]
    sequence_length: int
    shard_rows: list[int]

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows by index: [len(indices), L + 1], int64."""
        ...


def gather(
    indices: Sequence[int] | np.ndarray,
    counts: Sequence[int],
    sequence_length: int,
    read: Callable[[int, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Rows, [len(indices), L + 1], int64, of holders whose rows are numbered one after another.

    Args:
        counts: rows of each holder.
        read: gives rows of the holder with a number, by their places there.
    """
    indices = np.asarray(indices, dtype=np.int64)
    batch = np.empty((len(indices), sequence_length + 1), dtype=np.int64)
    ends = np.cumsum(counts)
    holders = np.searchsorted(ends, indices, side="right")
    for holder in np.unique(holders).tolist():
        here = np.flatnonzero(holders == holder)
        batch[here] = read(holder, indices[here] - (ends[holder] - counts[holder]))
    return batch


class Rows:
    """Random access to the rows of a data folder, here or in an object store.

    A block of a shard is compared with the manifest when a row of it is first read.

    Args:
        folder: the data folder; behind a cache, its place there.
        cache: who brings the files; shards of a local folder are opened at once.
        sequence_length: to read them with; that which they were written with if not given. What
            does not fill a row at the end of a shard is left over.
        vocab_size: of the model that reads; the data's own if not given.

    Raises:
        DataError: no rows, a shard is missing, its size is not what the manifest says, or its rows
            cannot be cut to another length; what is inside is checked when it is first read.
    """

    def __init__(
        self,
        folder: Path,
        cache: Cache | None = None,
        sequence_length: int | None = None,
        vocab_size: int | None = None,
    ) -> None:
        self.folder, self._cache = folder, cache
        if cache is not None:
            cache.bring(folder / MANIFEST)
        self.manifest = read_part(folder)
        self._written = int(self.manifest["sequence_length"])
        self.sequence_length = sequence_length or self._written
        self._stride = int(self.manifest.get("row_stride", self._written))
        self._step = self._stride  # from row to row as they are read
        self.shard_rows = [int(entry["rows"]) for entry in self.manifest["shards"]]
        if self.manifest["rows"] < 1 or len(self) != self.manifest["rows"]:
            raise DataError(
                f"{folder / MANIFEST}: {self.manifest['rows']} rows in all, {len(self)} in its "
                "shards; prepare the data again"
            )
        if self.sequence_length != self._written:
            self._cut_anew()
        self._dtype = np.dtype(self.manifest["dtype"])
        entries = self.manifest["shards"] if cache is None else []
        self._open = [self._view(folder / entry["file"], entry) for entry in entries]
        known = int(self.manifest.get("vocab_size", 1 << 32))
        self._first_reads: list[FirstRead | None] = [
            FirstRead(folder / e["file"], e, self._dtype, min(known, vocab_size or known))
            for e in self.manifest["shards"]
        ]

    def __len__(self) -> int:
        return sum(self.shard_rows)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows by index: [len(indices), L + 1], int64."""
        return gather(indices, self.shard_rows, self.sequence_length, self._read_shard)

    def _read_shard(self, shard: int, places: np.ndarray) -> np.ndarray:
        with self._shard(shard) as rows:
            self._require_written(shard, places)
            return rows[places]

    def _cut_anew(self) -> None:
        """Count the rows of another length than they were written with."""
        written, length = self._written, self.sequence_length
        if self._stride != written:
            raise DataError(
                f"{self.folder}: its rows of {written} end with the documents and cannot be cut to "
                f"{length}; set llm_config.max_seq_len={written} or prepare the data again"
            )
        self._step = length
        self.shard_rows = [rows * written // length for rows in self.shard_rows]
        if not len(self):
            raise DataError(
                f"{self.folder}: too little text for one row of {length} tokens; lower "
                "llm_config.max_seq_len, or prepare more text"
            )

    def _require_written(self, shard: int, rows: np.ndarray) -> None:
        """Check rows against the manifest; costs nothing once all of their shard is checked."""
        if (check := self._first_reads[shard]) is None:
            return
        size = self._dtype.itemsize
        if not check(rows * self._step * size, (self.sequence_length + 1) * size):
            self._first_reads[shard] = None

    @contextmanager
    def _shard(self, number: int) -> Iterator[np.ndarray]:
        if self._cache is None:
            yield self._open[number]
            return
        entry = self.manifest["shards"][number]
        path = self.folder / entry["file"]
        with self._cache.hold(path, entry):
            yield self._view(path, entry)

    def _view(self, path: Path, entry: dict[str, Any]) -> np.ndarray:
        """A shard as its rows, [N, L + 1]; of one stream, neighbours share a token."""
        written, size = self._written, self._dtype.itemsize
        if entry["bytes"] != ((entry["rows"] - 1) * self._stride + written + 1) * size:
            raise DataError(
                f"{path}: {entry['bytes']} bytes are not {entry['rows']} rows of {written} + 1 "
                "tokens; prepare the data again"
            )
        tokens = np.asarray(_open_shard(path, entry, self._dtype))
        length, step = self.sequence_length, self._step
        rows = (len(tokens) - length - 1) // step + 1
        return np.lib.stride_tricks.as_strided(
            tokens, (max(0, rows), length + 1), (step * size, size), writeable=False
        )


def _open_shard(path: Path, entry: dict[str, Any], dtype: np.dtype) -> np.ndarray:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: shard is missing; prepare the data again") from error
    if size != entry["bytes"]:
        raise DataError(
            f"{path}: shard has {size} bytes, the manifest says {entry['bytes']}; "
            "prepare the data again"
        )
    return np.memmap(path, dtype=dtype, mode="r")
