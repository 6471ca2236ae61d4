"""Token rows on disk: flat little-endian files, read by memory map, described by a manifest.

Row i of a shard is tokens [i S, i S + L], both ends included: L inputs and, one to the right, L
targets. With the stride S = L neighbours share one token, so no target is lost; S = L + 1 where
rows do not run on over documents. The manifest is written last: a folder without one is no data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from photon.data.manifest import FORMAT, MANIFEST, read_manifest, write_json
from photon.data.writer import SHARD_TOKENS, ShardWriter
from photon.errors import DataError

__all__ = ["FORMAT", "MANIFEST", "Rows", "read_manifest", "write_json", "write_shards"]


def write_shards(
    folder: Path,
    tokens: np.ndarray,
    sequence_length: int,
    facts: dict[str, Any],
    vocab_size: int | None = None,
) -> dict[str, Any]:
    """Write a token stream as shards and a manifest.

    Args:
        folder: created if missing.
        tokens: [N], any integer type.
        sequence_length: L, targets of a row.
        facts: further entries of the manifest (tokenizer digest, bytes of text, ...).
        vocab_size: decides the width of a token; one more than the largest token if not given.

    Returns:
        The manifest.

    Raises:
        DataError: not even one row.
        StorageError: the disk is full.
    """
    vocab_size = vocab_size or int(tokens.max(initial=0)) + 1
    per_shard = max(1, SHARD_TOKENS // sequence_length)
    writer = ShardWriter(folder, sequence_length, vocab_size, rows_per_shard=per_shard)
    try:
        writer.append(tokens)
        return writer.finish(facts)
    finally:
        writer.close()


class Rows:
    """Random access to the rows of a data folder.

    Attributes:
        num_rows: rows in all shards.
        sequence_length: L.

    Raises:
        DataError: a shard is missing, or its size is not what the manifest says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.sequence_length = int(self.manifest["sequence_length"])
        self.num_rows = int(self.manifest["rows"])
        self._stride = int(self.manifest.get("row_stride", self.sequence_length))
        dtype = np.dtype(self.manifest["dtype"])
        self._maps = [_open_shard(folder / s["file"], s, dtype) for s in self.manifest["shards"]]
        self._ends = np.cumsum([s["rows"] for s in self.manifest["shards"]])

    def __len__(self) -> int:
        return self.num_rows

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows by index: [len(indices), L + 1], int64."""
        length, stride = self.sequence_length, self._stride
        batch = np.empty((len(indices), length + 1), dtype=np.int64)
        shards = np.searchsorted(self._ends, indices, side="right")
        for position, (index, shard) in enumerate(zip(indices, shards, strict=True)):
            first = index - (int(self._ends[shard - 1]) if shard else 0)
            batch[position] = self._maps[shard][first * stride : first * stride + length + 1]
        return batch


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
