"""Writing token rows: one folder's stream of tokens, cut into shards, in bounded memory.

The layout is that of `photon.data.read.shards`. A writer can say where it stands and, in another
process, go on from there to the same bytes; the manifest comes last.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import numpy as np

from photon.data.manifest import FORMAT, MANIFEST, write_json
from photon.data.read.checksum import shard_entry
from photon.errors import DataError, storing
from photon.files import sync

SHARD_TOKENS = 1 << 26
"""Tokens of a shard: 128 MiB at two bytes a token."""
_BUFFER_TOKENS = 1 << 16
"""Tokens held in memory before they are written."""


def token_dtype(vocab_size: int) -> np.dtype:
    """Little-endian, two bytes a token where the vocabulary fits, else four."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


class ShardWriter:
    """Appends tokens to a folder's shards.

    Args:
        folder: created if missing; shards that it holds beyond `position` are replaced.
        sequence_length: L, targets of a row.
        vocab_size: decides the width of a token; no token may reach it.
        rows_per_shard: rows after which the next file begins; 2^26 tokens if not given.
        wrap: True: one stream, rows run on over what was appended. False: each appended array has
            its own rows, of L + 1 tokens each, and its tail is dropped and counted.
        position: where to go on, as another writer's `position()` told.

    Raises:
        StorageError: the disk is full or refuses to write.
    """

    def __init__(
        self,
        folder: Path,
        sequence_length: int,
        vocab_size: int,
        *,
        rows_per_shard: int | None = None,
        wrap: bool = True,
        position: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.sequence_length, self.vocab_size = folder, sequence_length, vocab_size
        self.wrap, self.dtype = wrap, token_dtype(vocab_size)
        self.stride = sequence_length if wrap else sequence_length + 1
        self._overlap = sequence_length + 1 - self.stride  # tokens that a row and the next share
        self.rows_per_shard = rows_per_shard or max(1, SHARD_TOKENS // sequence_length)
        self.text_tokens = self.remainder_tokens = self.first_tokens = 0
        self.unigram = np.zeros(vocab_size, dtype=np.int64)
        self._shards: list[dict[str, Any]] = []
        self._file: IO[bytes] | None = None
        self._in_shard = 0
        self._last = np.empty(0, dtype=self.dtype)
        self._pending: list[np.ndarray] = []
        self._num_pending = 0
        with self._storing():
            folder.mkdir(parents=True, exist_ok=True)
            if position is not None:
                self._restore(position)
            self._discard_beyond()

    @property
    def rows(self) -> int:
        """Rows that the tokens appended so far fill."""
        targets = self.text_tokens - self.first_tokens - self.remainder_tokens
        return targets // self.sequence_length

    def _storing(self) -> AbstractContextManager[None]:
        return storing(self.folder, "cannot write shards")

    def append(self, tokens: np.ndarray) -> None:
        """Add tokens to the end of the stream.

        Args:
            tokens: [N], any integer type; with `wrap=False` one document.

        Raises:
            DataError: a token is not of the vocabulary.
            StorageError: the disk is full.
        """
        if not len(tokens):
            return
        self.text_tokens += len(tokens)
        if self.wrap:
            self.first_tokens = 1
        else:
            self.first_tokens += 1
            self.remainder_tokens += (len(tokens) - 1) % self.sequence_length
        self._pending.append(tokens)
        self._num_pending += len(tokens)
        if self._num_pending >= _BUFFER_TOKENS:
            self._flush()

    def position(self) -> dict[str, Any]:
        """Where the writer stands, once all before it is on disk: plain values and bytes."""
        self._flush()
        if self._file is not None:
            with self._storing():
                sync(self._file)
        return {
            "shards": list(self._shards),
            "in_shard": self._in_shard,
            "last": self._last.tobytes(),
            "text_tokens": self.text_tokens,
            "remainder_tokens": self.remainder_tokens,
            "first_tokens": self.first_tokens,
            "unigram": self.unigram.tobytes(),
        }

    def end(self) -> None:
        """Leave over what does not fill a row: nothing more is appended.

        From then on `position()` tells of no more than `finish` keeps on disk, so that it holds
        before, amid and after it.
        """
        self._flush()
        rows = self._whole_rows()
        self._in_shard = rows * self.stride + self._overlap if rows else 0

    def finish(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Close the last shard and write the manifest, last and durably.

        Args:
            facts: further entries of the manifest (tokenizer digest, bytes of text, ...).

        Returns:
            The manifest; `tokens + remainder_tokens + first_tokens == text_tokens`, where first
            tokens are those that nothing precedes, hence no target.

        Raises:
            DataError: not even one row.
            StorageError: the disk is full.
        """
        self.end()
        if self.rows < 1:
            raise DataError(
                f"{self.folder}: {self.text_tokens} tokens do not fill one row of "
                f"{self.sequence_length} + 1; the text is too small for this many clients or this "
                "sequence length"
            )
        with self._storing():
            if self._file is not None:
                self._seal(self._whole_rows())
            manifest = {**self._counts(), **facts}
            write_json(self.folder / MANIFEST, manifest)
        return manifest

    def close(self) -> None:
        """Let the open file go, without a manifest."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _whole_rows(self) -> int:
        """Of the open shard."""
        return max(0, (self._in_shard - self._overlap) // self.stride)

    def _counts(self) -> dict[str, Any]:
        rows = sum(shard["rows"] for shard in self._shards)
        tokens = rows * self.sequence_length
        return {
            "format": FORMAT,
            "dtype": self.dtype.str,
            "vocab_size": self.vocab_size,
            "sequence_length": self.sequence_length,
            "row_stride": self.stride,
            "rows": rows,
            "tokens": tokens,
            "first_tokens": self.first_tokens,
            "remainder_tokens": self.text_tokens - self.first_tokens - tokens,
            "text_tokens": self.text_tokens,
            "unigram": self.unigram.tolist(),
            "shards": list(self._shards),
        }

    def _own_rows(self, tokens: np.ndarray) -> np.ndarray:
        """A document's rows one after another, neighbours repeating the token that they share."""
        length = self.sequence_length
        starts = np.arange(0, len(tokens) - length, length)
        return tokens[starts[:, None] + np.arange(length + 1)].reshape(-1)

    def _flush(self) -> None:
        if not self._num_pending:
            return
        documents, self._pending, self._num_pending = self._pending, [], 0
        tokens = np.concatenate(documents)
        counts = np.bincount(tokens, minlength=self.vocab_size)
        if len(counts) > self.vocab_size:
            raise DataError(
                f"{self.folder}: token {int(tokens.max())} is outside the vocabulary of "
                f"{self.vocab_size}; the tokenizer's size is wrong"
            )
        self.unigram += counts
        if not self.wrap:
            tokens = np.concatenate([self._own_rows(document) for document in documents])
        with self._storing():
            self._write(tokens.astype(self.dtype))

    def _write(self, tokens: np.ndarray) -> None:
        capacity = self.rows_per_shard * self.stride + self._overlap
        while len(tokens):
            if self._file is None:
                self._file = open(self._path(), "wb")  # noqa: SIM115
                self._put(self._last)
            room = capacity - self._in_shard
            self._put(tokens[:room])
            tokens = tokens[room:]
            if self._in_shard == capacity:
                self._seal(self.rows_per_shard)

    def _put(self, tokens: np.ndarray) -> None:
        assert self._file is not None
        self._file.write(tokens.tobytes())
        self._in_shard += len(tokens)
        if self.wrap and len(tokens):
            self._last = tokens[-1:].copy()

    def _path(self) -> Path:
        return self.folder / f"shard_{len(self._shards):05d}.bin"

    def _seal(self, rows: int) -> None:
        """End the open shard after its last whole row; one without any is removed."""
        assert self._file is not None
        path = self._path()
        self._file.truncate((rows * self.stride + self._overlap) * self.dtype.itemsize)
        sync(self._file)
        self.close()
        self._in_shard = 0
        if rows < 1:
            path.unlink()
        else:
            self._shards.append(shard_entry(path, rows))

    def _restore(self, position: Mapping[str, Any]) -> None:
        self._shards = list(position["shards"])
        self._last = np.frombuffer(position["last"], dtype=self.dtype)
        self.text_tokens = position["text_tokens"]
        self.remainder_tokens = position["remainder_tokens"]
        self.first_tokens = position["first_tokens"]
        self.unigram = np.frombuffer(position["unigram"], dtype=np.int64).copy()
        if position["in_shard"]:
            self._reopen(position["in_shard"])

    def _reopen(self, stored: int) -> None:
        path, size = self._path(), stored * self.dtype.itemsize
        if not path.exists() or path.stat().st_size < size:
            raise DataError(
                f"{path}: is shorter than the recorded {size} bytes; remove {self.folder} and "
                "prepare the data again"
            )
        self._file = open(path, "r+b")  # noqa: SIM115
        self._file.truncate(size)
        self._file.seek(size)
        self._in_shard = stored

    def _discard_beyond(self) -> None:
        """Remove what an interrupted writer left beyond the position."""
        kept = {shard["file"] for shard in self._shards}
        kept |= {self._path().name} if self._file is not None else set()
        for path in (*self.folder.glob("shard_*.bin"), self.folder / MANIFEST):
            if path.name not in kept:
                path.unlink(missing_ok=True)
