"""A reader of the MDS format (Mosaic Data Shard, version 2), of what a column of tokens needs.

A folder holds `index.json`, which lists the shards: name, number of samples, columns with their
encodings and fixed sizes, and the compression of the files, if any. A shard is little-endian:

uint32 N                number of samples
uint32 offsets[N + 1]   where each sample begins, from the start of the file; the last is its end
JSON                    the columns once more
samples                 a uint32 size for each column without a fixed one, then the columns

A column `ndarray:TYPE:SHAPE` is bare values; `ndarray:TYPE` has its shape before them, one byte
`dimensions << 2 | log2(bytes of a dimension)` and the dimensions; `ndarray` has one more byte that
names the type, before all. `bytes` has no description: the values are int64, as in the common
recipe that writes tokens this way.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from photon.errors import DataError

COLUMN = "tokens"
INDEX = "index.json"

_TYPES = {
    8: "uint8", 9: "int8", 16: "uint16", 17: "int16",
    32: "uint32", 33: "int32", 64: "uint64", 65: "int64",
}  # fmt: skip
_INTEGERS = frozenset(_TYPES.values())
_HASHES = {"md5", "sha1", "sha224", "sha256", "sha384", "sha512", "blake2b", "blake2s"}
"""Those of the format's that the standard library has; others are not checked."""
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class MdsShard:
    """One shard as the index describes it.

    Attributes:
        path: the file, compressed or not.
        samples: number of samples.
        raw_bytes: size of the file when it is not compressed.
        hashes: algorithm -> hex digest of the file.
        encodings, sizes: of the columns; a size is None where it varies.
        position: of the tokens among the columns.
    """

    path: Path
    compressed: bool
    samples: int
    raw_bytes: int
    hashes: dict[str, str]
    encodings: tuple[str, ...]
    sizes: tuple[int | None, ...]
    position: int

    @property
    def encoding(self) -> str:
        return self.encodings[self.position]


def read_index(folder: Path) -> list[MdsShard]:
    """The shards of an MDS folder, in order.

    Raises:
        DataError: no index, another format or version, no column of tokens, an encoding that holds
            none, or entries that no writer makes.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["version"] != 2:
            raise DataError(f"{path}: MDS version {index['version']}; version 2 can be read")
        return [_shard(folder, entry) for entry in index["shards"]]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no MDS data here (no index.json)") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not an index of MDS shards ({error!r})") from error


def _shard(folder: Path, entry: dict[str, Any]) -> MdsShard:
    if entry["format"] != "mds" or entry["version"] != 2:
        raise DataError(
            f"{folder / INDEX}: a shard of format {entry['format']} version {entry['version']}; "
            "mds version 2 can be read"
        )
    names, encodings, sizes = _columns(entry)
    if COLUMN not in names:
        raise DataError(
            f"{folder / INDEX}: no column {COLUMN!r}, only {', '.join(names)}; data of token ids "
            "is needed, text goes through `photon prepare`"
        )
    raw = entry["raw_data"]
    compressed = _is_compressed(folder, entry)
    file = entry["zip_data"] if compressed else raw
    shard = MdsShard(
        path=_beside(folder, file["basename"]),
        compressed=compressed,
        samples=_number(entry, "samples"),
        raw_bytes=_number(raw, "bytes"),
        hashes=dict(file["hashes"]),
        encodings=encodings,
        sizes=sizes,
        position=names.index(COLUMN),
    )
    kind, _, values = shard.encoding.partition(":")
    if kind not in ("ndarray", "bytes") or (values and values.split(":")[0] not in _INTEGERS):
        raise DataError(
            f"{folder / INDEX}: column {COLUMN!r} is encoded as {shard.encoding}; ndarray of "
            "integers or bytes can be read"
        )
    return shard


def _columns(entry: dict[str, Any]) -> tuple[list[str], tuple[str, ...], tuple[int | None, ...]]:
    """Names, encodings and sizes of the columns: one of each."""
    names, encodings = list(entry["column_names"]), tuple(entry["column_encodings"])
    sizes = tuple(entry["column_sizes"])
    if not len(names) == len(encodings) == len(sizes):
        raise ValueError(f"{len(names)} columns, {len(encodings)} encodings, {len(sizes)} sizes")
    if not all(isinstance(text, str) for text in (*names, *encodings)):
        raise ValueError("a column's name or encoding is no text")
    if not all(size is None or (type(size) is int and size >= 0) for size in sizes):
        raise ValueError(f"column_sizes {list(sizes)!r:.80}")
    return names, encodings, sizes


def _is_compressed(folder: Path, entry: dict[str, Any]) -> bool:
    """Whether the shard is there in its compressed form only."""
    compression = entry["compression"] or ""
    if not isinstance(compression, str) or compression.partition(":")[0] not in ("", "zstd"):
        raise DataError(
            f"{folder / INDEX}: compression {compression!r:.40}; zstd or none can be read"
        )
    return bool(compression) and not _beside(folder, entry["raw_data"]["basename"]).exists()


def _beside(folder: Path, name: Any) -> Path:
    """A file that the index names: in the folder or, of a merged index, below it."""
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name:
        raise ValueError(f"basename {name!r:.80}")
    return folder / name


def _number(entry: dict[str, Any], key: str) -> int:
    """A count in a file whose offsets have 32 bits."""
    value = entry[key]
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise ValueError(f"{key} {value!r:.40}")
    return value


def read_samples(shard: MdsShard) -> Iterator[np.ndarray]:
    """The samples of a shard: their token ids, [n] each.

    Raises:
        DataError: the file is missing or damaged; with the sample and the offset where known.
    """
    data = _read(shard)
    num_offsets = shard.samples + 1
    head = np.frombuffer(data[: 4 * (num_offsets + 1)], dtype="<u4")
    if len(head) != num_offsets + 1 or head[0] != shard.samples:
        raise DataError(f"{shard.path}: says {head[:1]} samples, the index {shard.samples}")
    offsets = head[1:].tolist()
    for number, (start, end) in enumerate(itertools.pairwise(offsets)):
        try:
            yield _tokens(shard, data[start:end])
        except (ValueError, IndexError, KeyError) as error:
            raise DataError(
                f"{shard.path}: sample {number} at offset {start:,} is damaged ({error})"
            ) from error


def _read(shard: MdsShard) -> bytes:
    """The shard's bytes, decompressed, of the size and with the hashes that the index gives."""
    try:
        data = shard.path.read_bytes()
        for name in _HASHES & shard.hashes.keys():
            if hashlib.new(name, data).hexdigest() != shard.hashes[name]:
                raise DataError(f"{shard.path}: its {name} is not the index's; copy it again")
        if shard.compressed:
            data = _decompressed(data, shard.raw_bytes)
    except OSError as error:
        raise DataError(f"{shard.path}: cannot read the shard ({error.strerror})") from error
    except zstandard.ZstdError as error:
        raise DataError(f"{shard.path}: cannot decompress the shard ({error})") from error
    if len(data) != shard.raw_bytes:
        raise DataError(
            f"{shard.path}: {len(data):,} bytes, the index says {shard.raw_bytes:,}; copy it again"
        )
    return data


def _decompressed(data: bytes, size: int) -> bytes:
    """What there is, piece by piece: neither file nor index is believed how much that will be.

    One byte more than there should be shows a file that is too long.
    """
    found = bytearray()
    with zstandard.ZstdDecompressor().stream_reader(data) as reader:
        while piece := reader.read(min(_PIECE, size + 1 - len(found))):
            found += piece
    return bytes(found)


def _tokens(shard: MdsShard, sample: bytes) -> np.ndarray:
    """The column of tokens of one sample."""
    at, sizes = 0, []
    for size in shard.sizes:
        if size is None:
            (size,) = np.frombuffer(sample[at : at + 4], dtype="<u4").tolist()
            at += 4
        sizes.append(size)
    at += sum(sizes[: shard.position])
    value = sample[at : at + sizes[shard.position]]
    if len(value) != sizes[shard.position] or at + sum(sizes[shard.position :]) != len(sample):
        raise ValueError("its columns do not fill it")
    return _decode(shard.encoding, value)


def _decode(encoding: str, value: bytes) -> np.ndarray:
    kind, *given = encoding.split(":")
    if kind == "bytes":
        return np.frombuffer(value, dtype="<i8")
    at = 0
    if not given:
        given, at = [_TYPES[value[0]]], 1
    if len(given) == 1:
        num_dimensions, width = value[at] >> 2, 1 << (value[at] & 3)
        shape = np.frombuffer(value[at + 1 : at + 1 + num_dimensions * width], dtype=f"<u{width}")
        at += 1 + num_dimensions * width
    else:
        shape = np.array([int(size) for size in given[1].split(",")])
    tokens = np.frombuffer(value[at:], dtype=np.dtype(given[0]).newbyteorder("<"))
    if len(shape) != 1 or len(tokens) != shape[0]:
        raise ValueError(f"{len(tokens)} values of shape {shape.tolist()}")
    return tokens
