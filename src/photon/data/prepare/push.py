"""Uploading prepared data to an object store."""

from __future__ import annotations

from pathlib import Path

from photon.data.manifest import MANIFEST, read_manifest
from photon.data.read.remote import RemoteFolder
from photon.data.read.verify import BytesCallback, data_folders
from photon.errors import DataError


def push(
    root: Path, remote: RemoteFolder, progress: BytesCallback = lambda name, size: None
) -> int:
    """Upload a prepared folder, shards first, the manifest of the whole last; bytes sent.

    A push that was cut off is simply run again; one that ended is a no-op.

    Raises:
        DataError: the folder is no prepared data, the store does not answer or refuses, or it holds
            other data there.
    """
    read_manifest(root)
    if remote.size(MANIFEST) is not None:
        if remote.read(MANIFEST) == (root / MANIFEST).read_bytes():
            return 0
        raise DataError(f"{remote.url}: holds other data than {root}; choose another prefix")
    sent = 0
    for path in _files(root):
        remote.write(path.relative_to(root).as_posix(), path)
        sent += path.stat().st_size
        progress(path.relative_to(root).as_posix(), path.stat().st_size)
    return sent


def _files(root: Path) -> list[Path]:
    folders = data_folders(root)
    shards = [f.path / entry["file"] for f in folders for entry in f.manifest["shards"]]
    others = [f.path / MANIFEST for f in folders if f.path != root]
    tokenizer = [root / "tokenizer.json"] if (root / "tokenizer.json").exists() else []
    return [*shards, *others, *tokenizer, root / MANIFEST]
