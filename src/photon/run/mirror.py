"""A copy of a run folder in an object store: made after every commit, and brought back from there.

The index, written last, names the files of a consistent copy, and the object of each, whose name
comes from its content: what an index names is never replaced, whenever the next copy is cut off.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from photon.config.schema import Bucket
from photon.data.read.remote import RemoteFolder
from photon.errors import CheckpointError, DataError, StorageError, warn

INDEX = "index.json"
LEFT_OUT = (".tmp", ".part", ".spans", ".lock", "live.json", ".key")
NOT_MIRRORED = ("baselines", "depot", "tensorboard", "wandb")
"""Folders that are no part of a run's state; those of trackers also change while they are sent."""
OPEN = ("train.", "train-")
"""What clients in the middle of a round save, again and again: who has none begins that anew."""
CHUNK_BYTES = 64 << 20
MOST_INDEX_BYTES = 1 << 28
DIGITS = 16
NAMED_BY_CONTENT = re.compile(r"-[0-9a-f]{12}\.safetensors$")
Mark = tuple[int, int]
"""Time and size of a file, which change with its content."""
PROBES = ".probes"
"""In place of a run's name, for objects that are deleted at once."""
ATTEMPTS = 3
"""At a copy while clients train, who replace what is theirs."""


class Stored(NamedTuple):
    """A file in the store."""

    size: int
    object: str


class Mirror:
    """Keeps an object store's copy of a run up to date.

    Args:
        folder: of the run.
        config: names the bucket.
        run: the copy lies below this name.

    Raises:
        DataError: `obstore` is missing, or no credentials.
    """

    def __init__(self, folder: Path, config: Bucket, run: str) -> None:
        self.folder, self.remote = folder, _remote(config, run)
        self._there: dict[str, tuple[Mark, Stored]] = {}
        self._objects: set[str] | None = None

    def push(self) -> None:
        """Send what has changed; a store that does not answer costs a warning, not the run."""
        try:
            self._push()
        except DataError as error:
            warn(f"{error}; the mirror lacks this commit until the next one is sent")

    def _push(self) -> None:
        if self._objects is None:
            self._objects = self._named_before()
        for _ in range(ATTEMPTS):
            with suppress(FileNotFoundError):
                return self._push_once(self._objects)
        raise DataError(f"{self.folder}: files come and go faster than they are sent")

    def _named_before(self) -> set[str]:
        """The objects of the copy that an earlier process has left."""
        try:
            return {stored.object for stored in (_read_index(self.remote) or {}).values()}
        except CheckpointError as error:
            warn(f"{error}; it is written anew, and what it may have named stays in the bucket")
            return set()

    def _push_once(self, objects: set[str]) -> None:
        here = _marks(self.folder)
        for name in sorted(here, key=_is_manifest):  # tensors before the manifests that name them
            if name not in self._there or self._there[name][0] != here[name]:
                self._send(name, here[name], objects)
        self._there = {name: self._there[name] for name in here}
        files = {name: stored._asdict() for name, (_, stored) in self._there.items()}
        self.remote.write(INDEX, json.dumps({"files": files}, indent=1).encode())
        for old in sorted(objects - {stored.object for _, stored in self._there.values()}):
            self.remote.delete(old)
            objects.remove(old)

    def _send(self, name: str, mark: Mark, objects: set[str]) -> None:
        """Raises:
        FileNotFoundError: what was here under that mark is not any more.
        """
        path = self.folder / name
        stored = Stored(mark[1], _object(name, path))
        objects.add(stored.object)
        try:
            self.remote.write(stored.object, path)
        except DataError:
            if path.exists():
                raise
        if _mark(path) != mark:
            raise FileNotFoundError(path)
        self._there[name] = mark, stored


def require_mirror(config: Bucket) -> None:
    """Find out before a run is made whether its mirror, if it has one, takes objects, says of them,
    and deletes them.

    Raises:
        DataError: it does not, or does not answer.
        ConfigError: `obstore` is missing.
    """
    if config.bucket is None:
        return
    remote, name = _remote(config, PROBES), uuid.uuid4().hex
    try:
        remote.write(name, b"")
        remote.size(name)
        remote.delete(name)
    except DataError as error:
        raise DataError(f"s3_comm_config.bucket_name={config.bucket}: {error}") from error


def fetch_run(folder: Path, config: Bucket, run: str) -> bool:
    """Bring a run from its mirror to a new folder.

    Returns:
        Whether the mirror has such a run.

    Raises:
        CheckpointError: the copy is incomplete, or the folder is not empty.
        DataError: the store does not answer or refuses.
        StorageError: it cannot be written here.
    """
    remote = _remote(config, run)
    files = _read_index(remote)
    if files is None:
        return False
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise CheckpointError(
            f"{folder}: is there, and is no run (no run.json); move it away, so that the run can "
            f"come from its mirror {remote.url}"
        )
    beside = folder.with_name(f".{folder.name}.coming")
    shutil.rmtree(beside, ignore_errors=True)  # of an attempt that was cut off
    try:
        for name, stored in files.items():
            _fetch(remote, name, stored, beside / name)
        os.replace(beside, folder)
    except OSError as error:
        raise StorageError(f"{beside}: cannot write ({error.strerror})") from error
    return True


def _fetch(remote: RemoteFolder, name: str, stored: Stored, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size, found = stored
    with open(path, "wb") as file:
        for start in range(0, size, CHUNK_BYTES):
            file.write(remote.read_range(found, start, min(size, start + CHUNK_BYTES)))
    if path.stat().st_size != size:
        raise CheckpointError(f"{remote.url}/{found}: {path.stat().st_size} of {size} bytes there")
    if found not in (name, _object(name, path)):
        raise CheckpointError(f"{remote.url}/{found}: is not what was sent")


def _read_index(remote: RemoteFolder) -> dict[str, Stored] | None:
    """The files of a copy; None: there is none.

    Raises:
        CheckpointError: it is no index.
    """
    size = remote.size(INDEX)
    if size is None:
        return None
    try:
        if size > MOST_INDEX_BYTES:
            raise ValueError(f"of {size:,} bytes")
        return {name: _stored(name, said) for name, said in _files_of(remote.read(INDEX)).items()}
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{remote.url}/{INDEX}: is no index of a run ({error})") from None


def _files_of(text: bytes) -> dict[str, Any]:
    index = json.loads(text)
    if not isinstance(index, dict) or not isinstance(files := index.get("files"), dict):
        raise ValueError("it names no files")
    return files


def _stored(name: str, said: Any) -> Stored:
    """What an index says of a file; before objects had names of their own, only its size."""
    size, found = said, name
    if isinstance(said, dict) and said.keys() == set(Stored._fields):
        size, found = said["size"], said["object"]
    if type(size) is not int or size < 0 or not isinstance(found, str):
        raise ValueError(f"nothing sound of {name!r}")
    for one in (name, found):
        if found == INDEX or "\0" in one or set(one.split("/")) & {"", ".", ".."}:
            raise ValueError(f"it names {one!r}, outside of the run")
    return Stored(size, found)


def _object(name: str, path: Path) -> str:
    """The name of a file with its content in it, which those of containers have already."""
    if NAMED_BY_CONTENT.search(name):
        return name
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    at = PurePosixPath(name)
    return at.with_name(f"{at.stem}-{digest[:DIGITS]}{at.suffix}").as_posix()


def _remote(config: Bucket, run: str) -> RemoteFolder:
    assert config.bucket is not None
    bucket = config.bucket
    url = bucket if "://" in bucket else f"s3://{bucket}"
    timeouts = config.backend_kwargs.client_config
    return RemoteFolder(
        f"{url.rstrip('/')}/{run}",
        retry=config.attempts - 1,
        timeout=timeouts.read_timeout,
        connect_timeout=timeouts.connect_timeout,
        create=True,
    )


def _marks(folder: Path) -> dict[str, Mark]:
    """What is to be mirrored: name -> mark.

    Manifests are looked for first: what one names is there until it is gone itself.
    """
    manifests = [path for path in _files(folder) if _is_manifest(path.name)]
    found = {path.relative_to(folder).as_posix(): _mark(path) for path in manifests}
    others = [path for path in _files(folder) if not _is_manifest(path.name)]
    return {path.relative_to(folder).as_posix(): _mark(path) for path in others} | found


def _is_manifest(name: str) -> bool:
    return name.endswith(".json")


def _mark(path: Path) -> Mark:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def _files(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock" and not path.name.endswith(LEFT_OUT)
        and not path.relative_to(folder).parts[0].startswith(NOT_MIRRORED)
        and not (path.name.startswith(OPEN) and path.relative_to(folder).parts[0] == "clients")
    ]  # fmt: skip
