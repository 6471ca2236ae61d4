"""Whether prepared data is, byte for byte, what was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from photon.data.manifest import (
    DOCUMENTS,
    MANIFEST,
    known_parts,
    part_digest,
    read_manifest,
    read_part,
)
from photon.data.read.checksum import BLOCK_BYTES, Checksum
from photon.data.tokenizer import tokenizer_digest
from photon.errors import DataError

BytesCallback = Callable[[str, int], None]
"""Takes a file's name and the bytes of it that were read, or sent, since the last call."""


@dataclass(frozen=True, slots=True)
class DataFolder:
    """One folder of shards below a root.

    Attributes:
        name: relative to the root.
        num_bytes: of its shards, as its manifest says.
    """

    path: Path
    name: str
    manifest: dict[str, Any]

    @property
    def num_bytes(self) -> int:
        return sum(entry["bytes"] for entry in self.manifest["shards"])


def data_folders(root: Path) -> list[DataFolder]:
    """The folders of shards below a root, or the root itself, by name.

    Raises:
        DataError: none there, an unreadable manifest, or a part that the root's manifest names or
            the tokenizer is missing.
    """
    found = [DataFolder(p, p.relative_to(root).as_posix(), m) for p, m in _manifests(root)]
    folders = [folder for folder in found if "shards" in folder.manifest]
    if not folders:
        raise DataError(f"{root}: no prepared data here; run `photon prepare` first")
    _require_all_parts(root, folders)
    return folders


def _require_all_parts(root: Path, folders: list[DataFolder]) -> None:
    if not (root / MANIFEST).exists():
        return
    names = set(known_parts(read_manifest(root)))
    lost = sorted(names - {folder.name for folder in folders})
    if names and not (root / "tokenizer.json").exists():
        lost.append("tokenizer.json")
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise DataError(
            f"{root / lost[0]}: is missing{more}, but belongs to {root / MANIFEST}; {REMEDY}"
        )


def _manifests(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(root.rglob(MANIFEST)):
        if not any(part.startswith(".") for part in path.relative_to(root).parts):
            manifest = read_manifest(path.parent)
            yield path.parent, read_part(path.parent) if "shards" in manifest else manifest


def verify(root: Path, progress: BytesCallback = lambda shard, size: None) -> list[DataFolder]:
    """Read all shards below a root, which are returned, and compare them with their manifests.

    Raises:
        DataError: the first thing that is wrong: a shard with the offset of the damage, a manifest,
            hashes of documents, or a tokenizer that the shards were not made with.
    """
    folders = data_folders(root)
    if (root / "tokenizer.json").exists():
        digest = tokenizer_digest(root / "tokenizer.json")
        for folder in folders:
            require_tokenizer(folder.path, folder.manifest, digest)
    if (root / MANIFEST).exists():
        whole = read_manifest(root)
        for folder in folders:
            require_part(root, whole, folder.path, folder.manifest)
    for folder in folders:
        for entry in folder.manifest["shards"]:
            path = folder.path / entry["file"]
            shard = path.relative_to(root).as_posix()
            _verify_shard(path, entry, lambda size, shard=shard: progress(shard, size))
        if (path := folder.path / DOCUMENTS).exists() and "document_hashes" in folder.manifest:
            _verify_shard(path, folder.manifest["document_hashes"], lambda size: None)
    return folders


def require_tokenizer(folder: Path, manifest: Mapping[str, Any], digest: str) -> None:
    """Refuse a tokenizer that the tokens were not made with.

    Raises:
        DataError: its digest is another than the manifest's.
    """
    if manifest.get("tokenizer", digest) != digest:
        raise DataError(
            f"{folder}: its tokens were made with tokenizer {manifest['tokenizer']}, but "
            f"tokenizer.json is {digest}; put the right one back or prepare the data again"
        )


def require_part(
    home: Path, whole: Mapping[str, Any], folder: Path, own: Mapping[str, Any]
) -> None:
    """Refuse a folder that another preparation has put in the place of the one that was made.

    Args:
        home: folder of the data set.
        whole: its manifest; older ones do not know their parts.
        folder: of the part, below `home`.
        own: the part's manifest.

    Raises:
        DataError: its shards are not those of the data set.
    """
    known, found = known_parts(whole), part_digest(own)
    if (expected := known.get(folder.relative_to(home).as_posix(), found)) != found:
        raise DataError(
            f"{folder}: is of another data set than {home / MANIFEST} says (digest {found}, not "
            f"{expected}); {REMEDY}"
        )


def _verify_shard(path: Path, entry: dict[str, Any], progress: Callable[[int], None]) -> None:
    """Compare a shard with what its manifest says, block by block."""
    checksum, offset = Checksum(), 0
    try:
        with open(path, "rb") as file:
            while data := file.read(BLOCK_BYTES):
                checksum.update(data)
                _require_block(path, entry, checksum)
                offset = checksum.size
                progress(len(data))
    except OSError as error:
        where = f"unreadable at offset {offset:,}" if path.exists() else "shard is missing"
        raise DataError(f"{path}: {where} ({error.strerror}); {REMEDY}") from error
    if checksum.size != entry["bytes"]:
        raise DataError(
            f"{path}: ends at offset {checksum.size:,}, the manifest says {entry['bytes']:,}; "
            f"{REMEDY}"
        )
    if checksum.sha256 != entry["sha256"]:
        raise DataError(f"{path}: its SHA-256 is not the manifest's; {REMEDY}")


REMEDY = "copy it again or prepare the data again"
"""What to do about a shard that is damaged."""


def _require_block(path: Path, entry: dict[str, Any], checksum: Checksum) -> None:
    """Refuse the block that was read last if it is whole and differs."""
    expected, number = entry.get("block_crc32", []), len(checksum.blocks) - 1
    start = number * BLOCK_BYTES
    whole = checksum.size == min(start + BLOCK_BYTES, entry["bytes"])
    if whole and number < len(expected) and checksum.blocks[number] != expected[number]:
        raise DataError(f"{path}: damaged between offset {start:,} and {checksum.size:,}; {REMEDY}")
