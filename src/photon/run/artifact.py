"""Tensors and facts on disk: a safetensors file and a JSON manifest, written last.

The manifest names its tensor file by content, so replacing an artifact never touches the old one's
bytes: whatever moment the process dies, the manifest on disk names a complete tensor file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from photon.core.tree import digest
from photon.errors import CheckpointError, CorruptCheckpoint, StorageError
from photon.files import new_file, new_path, sync
from photon.run.tensor_file import write_tensors

FORMAT = 1


def save(folder: Path, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write an artifact durably, replacing one of the same name.

    Args:
        folder: created if missing.
        name: the manifest becomes `<name>.json`.
        tensors: contiguous, on the CPU.
        facts: JSON values.

    Returns:
        Path of the manifest.

    Raises:
        StorageError: the disk is full or refuses to write; an earlier artifact is intact.
    """
    content = _content(tensors)
    file = f"{name}-{content[:12]}.safetensors" if tensors else None
    manifest = {"format": FORMAT, "file": file, "digest": content, "facts": dict(facts)}
    manifest["check"] = _check(manifest)
    path = folder / f"{name}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if file is not None and not (folder / file).exists():
            _write_tensors(folder / file, tensors)
        _write_manifest(path, manifest)
        _sync_folder(folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(
            f"{path}: cannot write ({reason}); earlier checkpoints are intact: free some space "
            "and resume"
        ) from error
    _remove_tensors(folder, name, keep=file)
    return path


def _content(tensors: Mapping[str, Tensor]) -> str:
    """Digest in the order of names: safetensors files do not keep another."""
    return digest({name: tensors[name] for name in sorted(tensors)})


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with new_path(path) as beside:
        write_tensors(beside, tensors)
        with open(beside, "rb") as file:
            sync(file)


def _write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    with new_file(path) as file:
        file.write(json.dumps(manifest, indent=1).encode())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_facts(path: Path) -> dict[str, Any]:
    """The facts of an artifact, without its tensors.

    Raises:
        CheckpointError: no such file.
        CorruptCheckpoint: it is not what was written.
    """
    return _load_manifest(path)["facts"]


def load(path: Path, *, verify: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (memory-mapped) and facts of an artifact.

    Args:
        path: its manifest.
        verify: read the tensors once to compare their digest; without, nothing of them is read.

    Raises:
        CheckpointError: no such file.
        CorruptCheckpoint: a byte differs from what was written.
    """
    manifest = _load_manifest(path)
    if manifest["file"] is None:
        return {}, manifest["facts"]
    file = path.parent / manifest["file"]
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CorruptCheckpoint(f"{file}: cannot read the tensors ({error})") from error
    if verify and _content(tensors) != manifest["digest"]:
        raise CorruptCheckpoint(f"{file}: the bytes are not those that were written")
    return tensors, manifest["facts"]


def _load_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except (OSError, ValueError) as error:
        raise CorruptCheckpoint(f"{path}: unreadable manifest ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("check") != _check(manifest):
        raise CorruptCheckpoint(f"{path}: the manifest is not what was written")
    return manifest


def _check(manifest: Mapping[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "check"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def exists(folder: Path, name: str) -> bool:
    return (folder / f"{name}.json").exists()


def remove(folder: Path, name: str) -> None:
    """Delete an artifact: the manifest first, so that nothing half-there can be read."""
    (folder / f"{name}.json").unlink(missing_ok=True)
    _remove_tensors(folder, name, keep=None)


def _remove_tensors(folder: Path, name: str, keep: str | None) -> None:
    for path in folder.glob(f"{name}-*.safetensors*"):
        if path.name != keep:
            with contextlib.suppress(OSError):
                path.unlink()
