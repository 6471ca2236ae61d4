"""Token rows on disk: flat little-endian files, read by memory map, described by a manifest.

A shard holds `rows * sequence_length + 1` tokens. Row i is tokens [i L, (i + 1) L], both ends
included: L inputs and, one to the right, L targets; neighbours share one token, so no target is
lost. The manifest is written last: a folder without one is no data set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from photon.data.checksum import Checksum
from photon.errors import DataError, StorageError

if TYPE_CHECKING:
    from photon.data.cache import Cache

MANIFEST = "manifest.json"
SHARD_TOKENS = 1 << 26
FORMAT = 1


def write_shards(
    folder: Path, tokens: np.ndarray, sequence_length: int, facts: dict[str, Any]
) -> dict[str, Any]:
    """Write a token stream as shards and a manifest.

    Args:
        folder: created if missing.
        tokens: [N], any integer type.
        sequence_length: L, targets of a row.
        facts: further entries of the manifest (tokenizer digest, bytes of text, ...).

    Returns:
        The manifest.

    Raises:
        DataError: not even one row.
        StorageError: the disk is full.
    """
    rows = (len(tokens) - 1) // sequence_length
    if rows < 1:
        raise DataError(
            f"{folder}: {len(tokens)} tokens do not fill one row of {sequence_length} + 1; "
            "the text is too small for this many clients or this sequence length"
        )
    dtype = np.dtype("<u2") if int(tokens.max()) < 1 << 16 else np.dtype("<u4")
    per_shard = max(1, SHARD_TOKENS // sequence_length)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shards = []
        for first in range(0, rows, per_shard):
            count = min(per_shard, rows - first)
            start = first * sequence_length
            part = tokens[start : start + count * sequence_length + 1].astype(dtype)
            shards.append(_write_shard(folder / f"shard_{len(shards):05d}.bin", part, count))
        manifest = {
            "format": FORMAT,
            "dtype": dtype.str,
            "sequence_length": sequence_length,
            "rows": rows,
            "tokens": rows * sequence_length,
            "remainder_tokens": len(tokens) - 1 - rows * sequence_length,
            "shards": shards,
            **facts,
        }
        write_json(folder / MANIFEST, manifest)
    except OSError as error:
        raise StorageError(f"{folder}: cannot write shards ({error.strerror})") from error
    return manifest


def _write_shard(path: Path, tokens: np.ndarray, rows: int) -> dict[str, Any]:
    data = tokens.tobytes()
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    checksum = Checksum()
    checksum.update(data)
    return shard_entry(path.name, rows, checksum)


def shard_entry(name: str, rows: int, checksum: Checksum) -> dict[str, Any]:
    """What a manifest says about a shard."""
    return {
        "file": name,
        "rows": rows,
        "bytes": checksum.size,
        "sha256": checksum.sha256,
        "block_crc32": checksum.blocks,
    }


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically and durably."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a data folder.

    Raises:
        DataError: the folder or its manifest is missing or unreadable.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        missing = folder if not folder.exists() else path
        raise DataError(f"{missing}: no prepared data here; run `photon prepare` first") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: unreadable manifest ({error}); prepare the data again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path}: not a manifest of format {FORMAT}; prepare the data again")
    return manifest


class Rows:
    """Random access to the rows of a data folder, here or in an object store.

    Attributes:
        num_rows: rows in all shards.
        shard_rows: rows of each shard.
        sequence_length: L.

    Args:
        folder: the data folder; behind a cache, its place there.
        cache: who brings the files; shards of a local folder are opened at once.

    Raises:
        DataError: no rows, a shard is missing, or its size is not what the manifest says.
    """

    def __init__(self, folder: Path, cache: Cache | None = None) -> None:
        self.folder, self._cache = folder, cache
        if cache is not None:
            cache.bring(folder / MANIFEST)
        self.manifest = read_manifest(folder)
        self.sequence_length = int(self.manifest["sequence_length"])
        self.num_rows = int(self.manifest["rows"])
        self.shard_rows = [int(entry["rows"]) for entry in self.manifest["shards"]]
        if self.num_rows < 1 or sum(self.shard_rows) != self.num_rows:
            raise DataError(
                f"{folder / MANIFEST}: {self.num_rows} rows in all, {sum(self.shard_rows)} in its "
                "shards; prepare the data again"
            )
        self._dtype = np.dtype(self.manifest["dtype"])
        self._ends = np.cumsum(self.shard_rows)
        entries = self.manifest["shards"] if cache is None else []
        self._open = [self._view(folder / entry["file"], entry) for entry in entries]

    def __len__(self) -> int:
        return self.num_rows

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows by index: [len(indices), L + 1], int64."""
        indices = np.asarray(indices, dtype=np.int64)
        batch = np.empty((len(indices), self.sequence_length + 1), dtype=np.int64)
        shards = np.searchsorted(self._ends, indices, side="right")
        for shard in np.unique(shards).tolist():
            places = np.flatnonzero(shards == shard)
            first = self._ends[shard] - self.shard_rows[shard]
            with self._shard(shard) as rows:
                batch[places] = rows[indices[places] - first]
        return batch

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
        """A shard as its rows, [rows, L + 1], neighbours overlapping by one token."""
        length, size = self.sequence_length, self._dtype.itemsize
        if entry["bytes"] != (entry["rows"] * length + 1) * size:
            raise DataError(
                f"{path}: {entry['bytes']} bytes are not {entry['rows']} rows of {length} + 1 "
                "tokens; prepare the data again"
            )
        tokens = np.asarray(_open_shard(path, entry, self._dtype))
        return np.lib.stride_tricks.as_strided(
            tokens, (entry["rows"], length + 1), (length * size, size), writeable=False
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
