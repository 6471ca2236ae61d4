"""Containers: files of named tensors and facts, hashed in blocks while they are written.

    header's length (8, little endian) | header: JSON, spaces to a multiple of 64 | tensors, no gaps

So a container is a safetensors file that anybody can open; its facts are in the metadata. Only what
is written here is read, so a container has one form. Its digest is the hash of the hashes of the
header and of every 8 MiB block behind it, see `container.hashing`. Nothing is ever unpickled.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from photon.container.hashing import BLOCK_BYTES, HASH, HASHERS, Sink, hash_blocks
from photon.container.header import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    Entry,
    body_order,
    read_header,
    write_header,
)
from photon.core.tree import Tree, num_bytes
from photon.errors import PayloadError, StorageError
from photon.files import new_file


@dataclass(frozen=True, slots=True)
class ContainerRef:
    """What names a container.

    Attributes:
        digest: of its content, 64 hexadecimal digits.
        size: bytes of the file.
        hashes: of the header and of each block, where they are known; they do not travel.
    """

    digest: str
    size: int
    hashes: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def of(cls, hashes: list[bytes], size: int) -> ContainerRef:
        return cls(HASH(b"".join(hashes)).hexdigest(), size, tuple(one.hex() for one in hashes))

    def to_json(self) -> dict[str, Any]:
        return {"digest": self.digest, "size": self.size}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ContainerRef:
        """Raises:
        PayloadError: it names none.
        """
        if not isinstance(value, Mapping):
            raise PayloadError(f"payload: no digest and size in {str(value)[:80]!r}")
        digest, size = value.get("digest"), value.get("size")
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise PayloadError(f"payload digest {str(digest)[:80]!r}: not 64 hexadecimal digits")
        if not isinstance(size, int) or isinstance(size, bool) or not LENGTH_BYTES < size < 1 << 50:
            raise PayloadError(f"payload {digest[:12]}: no size {size!r}")
        return cls(digest, size)


def container_ref(tensors: Tree, facts: Mapping[str, Any]) -> ContainerRef:
    """What names the container of these, which need not be written: they are hashed where they lie.

    Raises:
        PayloadError: a tensor or a fact is of a kind that does not travel.
    """
    header = write_header(tensors, facts)
    hashes = hash_blocks(header, _blocks(_pieces(tensors)))
    return ContainerRef.of(hashes, len(header) + num_bytes(tensors))


def container_size(tensors: Tree, facts: Mapping[str, Any]) -> int:
    """Bytes of a container of these.

    Raises:
        PayloadError: as `container_ref`.
    """
    return len(write_header(tensors, facts)) + num_bytes(tensors)


def digest(tensors: Tree) -> str:
    """Hex digest of a container of these alone: equal only for trees equal bit for bit."""
    return container_ref(tensors, {}).digest


def write_container(
    path: Path,
    tensors: Tree,
    facts: Mapping[str, Any],
    *,
    durable: bool = False,
    ref: ContainerRef | None = None,
) -> ContainerRef:
    """Write a container, whole or not at all, without a second copy of the tensors in memory.

    Tensors elsewhere than in this memory come block by block.

    Args:
        durable: it is on the disk before it appears.
        ref: of `container_ref`, where that was called: the tensors are not hashed again.

    Raises:
        PayloadError: a tensor or a fact is of a kind that does not travel; `ref` names another one.
        StorageError: the disk is full or refuses to write.
    """
    header = write_header(tensors, facts)
    if ref is not None and ref.hashes[:1] != (HASH(header).hexdigest(),):
        raise PayloadError(f"{path}: payload {ref.digest[:12]} has other tensors or facts")
    with _new_file(path, durable=durable) as file:
        if ref is None:
            hashes = hash_blocks(header, _blocks(_pieces(tensors)), file.write)
            return ContainerRef.of(hashes, file.tell())
        file.write(header)
        for piece in _pieces(tensors):
            file.write(piece)
        return ref


def copy_container(source: Path, path: Path, ref: ContainerRef) -> None:
    """Copy a container and verify what is copied; nothing comes of another one.

    Raises:
        PayloadError: it is not what `ref` names.
        StorageError: the disk is full or refuses to write.
    """
    with _new_file(path) as file:
        verify_container(source, ref, file.write)


def verify_container(path: Path, ref: ContainerRef, sink: Sink = len) -> None:
    """Make sure of a file's bytes, with a few blocks of them in memory.

    Args:
        sink: takes them as they are read.

    Raises:
        PayloadError: it is not what `ref` names.
    """
    found = ref_of(map_file(path), str(path), sink)
    if found != ref:
        raise PayloadError(
            f"{path}: {found.size} bytes of digest {found.digest[:12]}, not the {ref.size} bytes "
            f"of payload {ref.digest[:12]}"
        )


def ref_of(data: memoryview, where: str = "payload", sink: Sink = len) -> ContainerRef:
    """What names these bytes.

    Args:
        sink: takes all of them, piece by piece.

    Raises:
        PayloadError: they have no header.
    """
    header = _header(data, where)
    hashes = hash_blocks(header, _passing(data, len(header)), sink)
    return ContainerRef.of(hashes, len(data))


def _passing(data: memoryview, start: int) -> Iterator[list[memoryview]]:
    """Blocks of a mapped file; those that have been hashed give their memory back."""
    mapped = data.obj
    for at in range(start, len(data), BLOCK_BYTES):
        yield [data[at : at + BLOCK_BYTES]]
        done = (at - HASHERS * BLOCK_BYTES) // mmap.PAGESIZE * mmap.PAGESIZE
        if done >= 0 and isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED, done, BLOCK_BYTES)


@contextmanager
def _new_file(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A file that appears when it is complete."""
    try:
        with new_file(path, durable=durable) as file:
            yield file
    except OSError as error:
        raise StorageError(f"{path}: cannot write ({error.strerror}); free some space") from error


def open_container(
    path: Path, ref: ContainerRef | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (memory-mapped, in the order given) and facts of a container.

    Args:
        ref: verify that it is this one; without, nothing but the header is read.

    Raises:
        PayloadError: it is no container, or another one.
    """
    if ref is not None:
        verify_container(path, ref)
    return parse_container(map_file(path), str(path))


def parse_container(
    data: memoryview, where: str = "payload"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As `open_container`, of bytes in memory, which the tensors share."""
    facts, entries, body = _parsed(data, where)
    return {entry.name: _tensor(body, entry) for entry in entries}, facts


def first_difference(path: Path, ref: ContainerRef) -> str:
    """Which tensors of a damaged container lie where it first differs; empty if that is unknown."""
    try:
        data = map_file(path)
        found = ref_of(data).hashes
        at = next(i for i, (a, b) in enumerate(zip(found, ref.hashes, strict=False)) if a != b)
        if at == 0:
            return " of its header"
        start, entries = (at - 1) * BLOCK_BYTES, _parsed(data, "")[1]
        hit = [e.name for e in entries if e.start < start + BLOCK_BYTES and e.end > start]
        return f" of {hit[0]} to {hit[-1]}"
    except (PayloadError, StopIteration):
        return ""


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


def _pieces(tensors: Tree) -> Iterator[memoryview]:
    """The bytes of a body."""
    for _, value in body_order(tensors):
        flat = value.detach().reshape(-1)
        for part in flat.split(max(1, BLOCK_BYTES // flat.element_size())):
            if part.numel():
                yield part.cpu().view(torch.uint8).numpy().data


def _blocks(pieces: Iterable[memoryview]) -> Iterator[list[memoryview]]:
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


def _header(data: memoryview, where: str) -> bytes:
    """The header of a container whose frame is sound, with its length."""
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if not length or length > MAX_HEADER_BYTES or LENGTH_BYTES + length > len(data):
        raise PayloadError(f"{where}: no container: {len(data)} bytes, a header of {length}")
    return bytes(data[: LENGTH_BYTES + length])


def _parsed(data: memoryview, where: str) -> tuple[dict[str, Any], list[Entry], memoryview]:
    header = _header(data, where)
    try:
        facts, entries = read_header(header)
    except PayloadError as error:
        raise PayloadError(f"{where}: {error}") from None
    body, end = data[len(header) :], max((entry.end for entry in entries), default=0)
    if end != len(body):
        raise PayloadError(f"{where}: a body of {len(body)} bytes; {end} are described")
    return facts, entries, body


def _tensor(body: memoryview, entry: Entry) -> Tensor:
    """A tensor that shares the body's memory."""
    if not entry.count:
        return torch.empty(entry.shape, dtype=entry.dtype)
    flat = torch.frombuffer(body, dtype=entry.dtype, count=entry.count, offset=entry.start)
    return flat.view(entry.shape)
