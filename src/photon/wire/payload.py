"""The one format in which big values travel: named tensors and facts, framed and checksummed.

    magic (8) | version (2) | header length (4) | header: JSON | zeros to a multiple of 64 | body

The header names each tensor with its format, shape and offset in the body; offsets are multiples of
64 and leave no room for anything else, and only the JSON that is written here is read, so a payload
has one form. Its digest is the SHA-256 of the header's hash and of the hash of every 8 MiB block of
the body: blocks are hashed side by side, and while they are written. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from photon.core.tree import Tree
from photon.errors import PayloadError, StorageError
from photon.files import new_file
from photon.wire.payload_header import (
    ALIGN,
    MAX_HEADER_BYTES,
    Entry,
    padded,
    read_header,
    write_header,
)

MAGIC = b"PHOTON\r\n"
VERSION = 1
HEAD = struct.Struct(">8sHI")
BLOCK_BYTES = 8 << 20
Put = Callable[[memoryview], object]
_HASHERS = max(2, min(8, os.cpu_count() or 1))


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
        if not isinstance(value, Mapping):
            raise PayloadError(f"payload: no digest and size in {str(value)[:80]!r}")
        digest, size = value.get("digest"), value.get("size")
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise PayloadError(f"payload digest {str(digest)[:80]!r}: not 64 hexadecimal digits")
        if not isinstance(size, int) or isinstance(size, bool) or not HEAD.size <= size < 1 << 50:
            raise PayloadError(f"payload {digest[:12]}: no size {size!r}")
        return cls(digest, size)


def write_payload(path: Path, tensors: Tree, facts: Mapping[str, Any]) -> PayloadRef:
    """Write a payload, whole or not at all, without a second copy of the tensors in memory.

    Tensors elsewhere than in this memory come block by block.

    Raises:
        PayloadError: a tensor or a fact is of a kind that does not travel.
        StorageError: the disk is full or refuses to write.
    """
    header = write_header(tensors, facts)
    with _new_file(path) as file:
        file.write(HEAD.pack(MAGIC, VERSION, len(header)) + header)
        file.write(bytes(-file.tell() % ALIGN))
        digest = _hash_blocks(header, _blocks(_pieces(tensors)), file.write)
        return PayloadRef(digest, file.tell())


def copy_payload(source: Path, path: Path, ref: PayloadRef) -> None:
    """Copy a payload and verify what is copied; nothing comes of another one.

    Raises:
        PayloadError: it is not what `ref` names.
        StorageError: the disk is full or refuses to write.
    """
    with _new_file(path) as file:
        _verify(source, ref, file.write)


def verify_payload(path: Path, ref: PayloadRef) -> None:
    """Make sure of a file's bytes, with a few blocks of them in memory.

    Raises:
        PayloadError: it is not what `ref` names.
    """
    _verify(path, ref, len)


def _verify(path: Path, ref: PayloadRef, put: Put) -> None:
    data = map_file(path)
    header = _split(data, str(path))
    start = _body_offset(len(header))
    put(data[:start])
    digest = _hash_blocks(header, _passing(data, start), put)
    _require(ref, digest, len(data), path)


def _passing(data: memoryview, start: int) -> Iterator[list[memoryview]]:
    """Blocks of a mapped file; those that have been hashed give their memory back."""
    mapped = data.obj
    for at in range(start, len(data), BLOCK_BYTES):
        yield [data[at : at + BLOCK_BYTES]]
        done = (at - _HASHERS * BLOCK_BYTES) // mmap.PAGESIZE * mmap.PAGESIZE
        if done >= 0 and isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED, done, BLOCK_BYTES)


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears when it is complete."""
    try:
        with new_file(path, durable=False) as file:
            yield file
    except OSError as error:
        raise StorageError(f"{path}: cannot write ({error.strerror}); free some space") from error


def read_payload(path: Path, ref: PayloadRef) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (memory-mapped, in the order written) and facts of a payload, verified.

    Raises:
        PayloadError: it is not what `ref` names.
    """
    data = map_file(path)
    _require(ref, payload_digest(data), len(data), path)
    return _parse(data, str(path))


def open_payload(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As `read_payload`, of a file that has been verified before.

    Raises:
        PayloadError: it is no payload.
    """
    return _parse(map_file(path), str(path))


def parse_payload(
    data: bytes | bytearray, ref: PayloadRef
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As `read_payload`, of bytes in memory."""
    view = memoryview(data if isinstance(data, bytearray) else bytearray(data))
    _require(ref, payload_digest(view), len(view), "payload")
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


def _require(ref: PayloadRef, digest: str, size: int, where: object) -> None:
    if (digest, size) != (ref.digest, ref.size):
        raise PayloadError(
            f"{where}: {size} bytes of digest {digest[:12]}, not the {ref.size} bytes of payload "
            f"{ref.digest[:12]}"
        )


def _combine(header: bytes, blocks: Iterable[bytes]) -> str:
    total = hashlib.sha256(_hash(header))
    for block in blocks:
        total.update(block)
    return total.hexdigest()


def _hash(data: bytes | memoryview) -> bytes:
    return hashlib.sha256(data).digest()


def _hash_blocks(header: bytes, blocks: Iterable[list[memoryview]], put: Put) -> str:
    """Digest of a body, each of whose blocks is hashed while it and the next ones are put away."""

    def hashes(pool: ThreadPoolExecutor) -> Iterator[bytes]:
        pending = deque()
        for block in blocks:
            pending.append(pool.submit(_hash_pieces, block))
            for piece in block:
                put(piece)
            if len(pending) > _HASHERS:  # a block is memory until it is hashed
                yield pending.popleft().result()
        yield from (future.result() for future in pending)

    with ThreadPoolExecutor(_HASHERS) as pool:
        return _combine(header, hashes(pool))


def _hash_pieces(pieces: list[memoryview]) -> bytes:
    state = hashlib.sha256()
    for piece in pieces:
        state.update(piece)
    return state.digest()


def _pieces(tensors: Tree) -> Iterator[memoryview]:
    for value in tensors.values():
        flat = value.detach().reshape(-1)
        for part in flat.split(max(1, BLOCK_BYTES // flat.element_size())):
            if part.numel():
                yield part.cpu().view(torch.uint8).numpy().data
        yield memoryview(bytes(-flat.numel() * flat.element_size() % ALIGN))


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


def map_file(path: Path) -> memoryview:
    """A file's bytes, read as they are looked at; what is written to them stays here.

    Raises:
        PayloadError: it is not there, or empty.
    """
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
    return padded(HEAD.size + header_length)


def _parse(data: memoryview, where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    header = _split(data, where)
    body = data[_body_offset(len(header)) :]
    try:
        facts, entries = read_header(header)
    except PayloadError as error:
        raise PayloadError(f"{where}: {error}") from None
    end = padded(entries[-1].end) if entries else 0
    if end != len(body):
        raise PayloadError(f"{where}: a body of {len(body)} bytes; {end} are described")
    for entry in entries:
        if any(body[entry.end : padded(entry.end)]):
            raise PayloadError(f"{where}: something stands behind tensor {entry.name[:80]!r}")
    return {entry.name: _tensor(body, entry) for entry in entries}, facts


def _tensor(body: memoryview, entry: Entry) -> Tensor:
    """A tensor that shares the body's memory."""
    if not entry.count:
        return torch.empty(entry.shape, dtype=entry.dtype)
    flat = torch.frombuffer(body, dtype=entry.dtype, count=entry.count, offset=entry.start)
    return flat.view(entry.shape)
