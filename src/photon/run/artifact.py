"""Containers and facts on disk: a JSON manifest, written last, names files that belong together.

Their names come from their content, so replacing an artifact never touches the old one's bytes:
whatever moment the process dies, the manifest on disk names complete files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from photon.container.container import (
    ContainerRef,
    first_difference,
    open_container,
    write_container,
)
from photon.core.tree import Tree
from photon.errors import CheckpointError, CorruptCheckpoint, PayloadError, StorageError
from photon.files import new_file

FORMAT = 4


def save(
    folder: Path,
    name: str,
    parts: Mapping[str, tuple[Tree, Mapping[str, Any]]],
    facts: Mapping[str, Any],
    refs: Mapping[str, ContainerRef] | None = None,
    there: Callable[[str, Path], object] = lambda part, file: None,
    following: Callable[[Mapping[str, str]], Mapping[str, Any]] = lambda digests: {},
) -> Path:
    """Write an artifact durably, replacing one of the same name.

    Args:
        folder: created if missing.
        name: the manifest becomes `<name>.json`.
        parts: tensors and facts of each container; it becomes `<name>-<part>-....safetensors`.
        facts: JSON values.
        refs: what names those containers that have been hashed already.
        there: called for each container that can be read; none of them is durable yet.
        following: gives further facts, of the digest of each container.

    Returns:
        Path of the manifest.

    Raises:
        StorageError: the disk is full or refuses to write; an earlier artifact is intact.
    """
    path = folder / f"{name}.json"
    with _writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, dict[str, Any]] = {}
        for part, of in parts.items():
            files[part] = _write_part(folder / f"{name}-{part}", *of, (refs or {}).get(part))
            there(part, folder / files[part]["file"])
        for file in files.values():
            _sync(folder / file["file"])
        digests = {part: file["digest"] for part, file in files.items()}
        manifest = {"format": FORMAT, "files": files, "facts": {**facts, **following(digests)}}
        _write_manifest(path, manifest | {"check": _check(manifest)})
        _sync(folder)
    _remove_files(folder, name, keep={file["file"] for file in files.values()})
    return path


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, StorageError) as error:
        reason = getattr(error.__cause__ or error, "strerror", None) or str(error)
        raise StorageError(
            f"{path}: cannot write ({reason}); earlier checkpoints are intact: free some space "
            "and resume"
        ) from error


def _write_part(
    path: Path, tensors: Tree, facts: Mapping[str, Any], ref: ContainerRef | None
) -> dict[str, Any]:
    """Write a container under the name that it gets by its content; what a manifest says of it."""
    beside = path.with_name(path.name + ".tmp")
    ref = write_container(beside, tensors, facts, ref=ref)
    file = path.with_name(f"{path.name}-{ref.digest[:12]}.safetensors")
    os.replace(beside, file)
    return {"file": file.name, **ref.to_json(), "hashes": ref.hashes}


def _write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    with new_file(path) as file:
        file.write(json.dumps(manifest, indent=1).encode())


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a manifest says.

    Attributes:
        files: part -> name of its container, and what it must be.
    """

    path: Path
    facts: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]

    def file(self, part: str) -> tuple[Path, ContainerRef]:
        """A container, and what names it."""
        said = self.files[part]
        ref = ContainerRef(said["digest"], said["size"], tuple(said["hashes"]))
        return self.path.parent / said["file"], ref

    @property
    def digests(self) -> dict[str, str]:
        """Of each container."""
        return {part: said["digest"] for part, said in self.files.items()}

    def load(self, part: str, *, verify: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors (memory-mapped) and facts of a container.

        Args:
            verify: read the file once to compare its digest; without, only its header is read.

        Raises:
            CorruptCheckpoint: a byte differs from what was written.
        """
        file, ref = self.file(part)
        if not file.is_file():
            raise CorruptCheckpoint(f"{file}: cannot read the tensors (no such file)")
        try:
            return open_container(file, ref if verify else None)
        except PayloadError as error:
            where = first_difference(file, ref)
            raise CorruptCheckpoint(
                f"{file}: the bytes{where} are not those that were written"
            ) from error


def read(path: Path) -> Artifact:
    """An artifact by its manifest; nothing of its containers is read.

    Raises:
        CheckpointError: no such file, or of another format.
        CorruptCheckpoint: it is not what was written.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except (OSError, ValueError) as error:
        raise CorruptCheckpoint(f"{path}: unreadable manifest ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("check") != _check(manifest):
        raise CorruptCheckpoint(f"{path}: the manifest is not what was written")
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: is of format {manifest['format']}, here is format {FORMAT}; go on with the "
            "version of photon that wrote it, which run.json of its run names"
        )
    return Artifact(path, manifest["facts"], manifest["files"])


def _check(manifest: Mapping[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "check"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def remove(folder: Path, name: str) -> None:
    """Delete an artifact: the manifest first, so that nothing half-there can be read."""
    (folder / f"{name}.json").unlink(missing_ok=True)
    _remove_files(folder, name, keep=set())


def _remove_files(folder: Path, name: str, keep: set[str]) -> None:
    for path in folder.glob(f"{name}-*"):
        if path.name not in keep:
            with contextlib.suppress(OSError):
                path.unlink()
