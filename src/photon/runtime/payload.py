"""The one format in which big values travel: named tensors and facts, framed and checksummed.

    magic (8) | version (2) | header length (4) | header: JSON | zeros to a multiple of 64 | body

The header names each tensor with its format, shape and offset in the body; offsets are multiples of
64 and leave no room for anything else, so a payload has one form only. Its digest is the SHA-256
of the header's hash and of the hash of every 8 MiB block of the body: blocks are hashed side by
side, and while they are written. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import struct
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from photon.core.tree import Tree
from photon.errors import PayloadError, StorageError

MAGIC = b"PHOTON\r\n"
VERSION = 1
HEAD = struct.Struct(">8sHI")
MAX_HEADER_BYTES = 16 << 20
BLOCK_BYTES = 8 << 20
ALIGN = 64
DTYPES = {
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i8": torch.int8,
    "u8": torch.uint8,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_HASHERS = 2


@dataclass(frozen=True, slots=True)
class PayloadRef:
    """What names a payload in a message.

    Attributes:
        digest: of its content, 64 hexadecimal digits.
        size: bytes of the file.
    """

    digest: str
    size: int

    def to_json(self) -> dict[str, Any]:
        return {"digest": self.digest, "size": self.size}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PayloadRef:
        """Raises:
        PayloadError: it names none.
        """
        digest, size = value.get("digest"), value.get("size")
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise PayloadError(f"payload digest {str(digest)[:80]!r}: not 64 hexadecimal digits")
        if not isinstance(size, int) or isinstance(size, bool) or not HEAD.size <= size < 1 << 50:
            raise PayloadError(f"payload {digest[:12]}: no size {size!r}")
        return cls(digest, size)


def write_payload(path: Path, tensors: Tree, facts: Mapping[str, Any]) -> PayloadRef:
    """Write a payload, whole or not at all, without a second copy of the tensors in memory.

    Raises:
        StorageError: the disk is full or refuses to write.
    """
    values = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header = _header(values, facts)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(HEAD.pack(MAGIC, VERSION, len(header)) + header)
            file.write(bytes(-file.tell() % ALIGN))
            digest = _write_body(file, header, values)
            size = file.tell()
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot write ({error.strerror}); free some space") from error
    return PayloadRef(digest, size)


def read_payload(path: Path, ref: PayloadRef) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (memory-mapped, in the order written) and facts of a payload, verified.

    Raises:
        PayloadError: it is not what `ref` names.
    """
    data = _map(path)
    if len(data) != ref.size or payload_digest(data) != ref.digest:
        raise PayloadError(f"{path}: {len(data)} bytes are not payload {ref.digest[:12]}")
    return _parse(data, str(path))


def open_payload(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As `read_payload`, of a file that has been verified before.

    Raises:
        PayloadError: it is no payload.
    """
    return _parse(_map(path), str(path))


def parse_payload(
    data: bytes | bytearray, ref: PayloadRef
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As `read_payload`, of bytes in memory."""
    view = memoryview(bytearray(data))
    if len(view) != ref.size or payload_digest(view) != ref.digest:
        raise PayloadError(f"{len(view)} bytes are not payload {ref.digest[:12]}")
    return _parse(view, "payload")


def payload_digest(data: memoryview) -> str:
    """Digest of a whole payload.

    Raises:
        PayloadError: too short to be one.
    """
    header = _split(data, "payload")
    body = data[_body_offset(len(header)) :]
    blocks = [body[i : i + BLOCK_BYTES] for i in range(0, len(body), BLOCK_BYTES)]
    if len(blocks) < 2:
        return _combine(header, map(_hash, blocks))
    with ThreadPoolExecutor(_HASHERS) as pool:
        return _combine(header, pool.map(_hash, blocks))


def _combine(header: bytes, blocks: Any) -> str:
    total = hashlib.sha256(_hash(header))
    for block in blocks:
        total.update(block)
    return total.hexdigest()


def _hash(data: bytes | memoryview) -> bytes:
    return hashlib.sha256(data).digest()


def _header(values: Tree, facts: Mapping[str, Any]) -> bytes:
    offset, entries = 0, []
    for name, value in values.items():
        if value.dtype not in _NAMES:
            raise PayloadError(f"{name}: {value.dtype} does not travel")
        entries.append([name, _NAMES[value.dtype], list(value.shape), offset])
        offset += _padded(value.numel() * value.element_size())
    header = json.dumps({"facts": facts, "tensors": entries}, allow_nan=False).encode()
    if len(header) > MAX_HEADER_BYTES:
        raise PayloadError(f"header of {len(header)} bytes; at most {MAX_HEADER_BYTES}")
    return header


def _write_body(file: Any, header: bytes, values: Tree) -> str:
    """Write the tensors block by block, hashing each block while the next is written."""
    with ThreadPoolExecutor(_HASHERS) as pool:
        hashes = []
        for block in _blocks(_pieces(values)):
            hashes.append(pool.submit(_hash_pieces, block))
            for piece in block:
                file.write(piece)
        return _combine(header, (future.result() for future in hashes))


def _hash_pieces(pieces: list[memoryview]) -> bytes:
    state = hashlib.sha256()
    for piece in pieces:
        state.update(piece)
    return state.digest()


def _pieces(values: Tree) -> Iterator[memoryview]:
    for value in values.values():
        data = value.view(-1).view(torch.uint8).numpy().data if value.numel() else memoryview(b"")
        yield data
        yield memoryview(bytes(-len(data) % ALIGN))


def _blocks(pieces: Iterator[memoryview]) -> Iterator[list[memoryview]]:
    """Cut and join pieces to lists of `BLOCK_BYTES` each, the last one shorter."""
    block: list[memoryview] = []
    room = BLOCK_BYTES
    for piece in pieces:
        while len(piece):
            part, piece = piece[:room], piece[room:]
            block.append(part)
            room -= len(part)
            if room == 0:
                yield block
                block, room = [], BLOCK_BYTES
    if block:
        yield block


def _map(path: Path) -> memoryview:
    try:
        with open(path, "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except (OSError, ValueError) as error:
        raise PayloadError(f"{path}: cannot be read ({error})") from error


def _split(data: memoryview, where: str) -> bytes:
    """The header of a payload whose frame is sound."""
    if len(data) < HEAD.size:
        raise PayloadError(f"{where}: {len(data)} bytes are too few")
    magic, version, length = HEAD.unpack(data[: HEAD.size])
    if magic != MAGIC:
        raise PayloadError(f"{where}: not a payload of Photon")
    if version != VERSION:
        raise PayloadError(f"{where}: format {version}; here is format {VERSION}")
    start = _body_offset(length)
    if length > MAX_HEADER_BYTES or start > len(data):
        raise PayloadError(f"{where}: a header of {length} bytes is too long")
    if any(data[HEAD.size + length : start]):
        raise PayloadError(f"{where}: something stands between header and body")
    return bytes(data[HEAD.size : HEAD.size + length])


def _body_offset(header_length: int) -> int:
    return _padded(HEAD.size + header_length)


def _padded(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def _parse(data: memoryview, where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    header = _split(data, where)
    try:
        value = json.loads(header, parse_constant=_no_constant)
        facts, entries = value["facts"], value["tensors"]
        if set(value) != {"facts", "tensors"} or not isinstance(facts, dict):
            raise TypeError("other keys")
        body = data[_body_offset(len(header)) :]
        tensors, end = {}, 0
        for name, dtype, shape, offset in entries:
            if not isinstance(name, str) or name in tensors or offset != end:
                raise ValueError(f"tensor {name!r} is out of place")
            tensors[name], size = _tensor(body, DTYPES[dtype], shape, end)
            end += _padded(size)
            if any(body[end - _padded(size) + size : end]):
                raise ValueError(f"something stands behind tensor {name!r}")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise PayloadError(f"{where}: malformed header ({str(error)[:200]})") from None
    if end != len(body):
        raise PayloadError(f"{where}: {len(body) - end} bytes too many")
    return tensors, facts


def _tensor(body: memoryview, dtype: torch.dtype, shape: Any, offset: int) -> tuple[Tensor, int]:
    """A tensor that shares the body's memory, and its bytes."""
    if not isinstance(shape, list) or len(shape) > 16:
        raise ValueError(f"shape {shape!r}")
    count = 1
    for length in shape:
        if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length < 1 << 48:
            raise ValueError(f"shape {shape!r}")
        count *= length
    size = count * dtype.itemsize
    if offset + size > len(body):
        raise ValueError(f"a tensor of shape {shape!r} ends beyond the body")
    if not count:
        return torch.empty(shape, dtype=dtype), 0
    return torch.frombuffer(body, dtype=dtype, count=count, offset=offset).view(shape), size


def _no_constant(name: str) -> float:
    raise ValueError(f"number {name}")
