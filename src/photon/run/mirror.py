"""A copy of a run folder in an object store: made after every commit, and brought back from there.

The index, written last, names the files of a consistent copy.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
import warnings
from contextlib import suppress
from pathlib import Path

from photon.config.schema import Bucket
from photon.data.read.remote import RemoteFolder
from photon.errors import CheckpointError, DataError, PhotonWarning

INDEX = "index.json"
LEFT_OUT = (".tmp", ".part", ".spans", ".lock", "live.json", ".key")
NOT_MIRRORED = ("baselines", "depot", "tensorboard", "wandb")
"""Folders that are no part of a run's state; those of trackers also change while they are sent."""
OPEN = ("train.", "train-")
"""What clients in the middle of a round save, again and again: who has none begins that anew."""
CHUNK_BYTES = 64 << 20
Mark = tuple[int, int]
"""Time and size of a file, which change with its content."""
PROBES = ".probes"
"""In place of a run's name, for objects that are deleted at once."""
ATTEMPTS = 3
"""At a copy while clients train, who replace what is theirs."""


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
        self._there: dict[str, tuple[int, int]] = {}

    def push(self) -> None:
        """Send what has changed; a store that does not answer costs a warning, not the run."""
        try:
            self._push()
        except DataError as error:
            warnings.warn(
                f"{error}; the mirror lacks this commit until the next one is sent",
                PhotonWarning,
                stacklevel=2,
            )

    def _push(self) -> None:
        for _ in range(ATTEMPTS):
            with suppress(FileNotFoundError):
                return self._push_once()
        raise DataError(f"{self.folder}: files come and go faster than they are sent")

    def _push_once(self) -> None:
        here = _marks(self.folder)
        for name in sorted(here, key=_is_manifest):  # tensors before the manifests that name them
            if self._there.get(name) != here[name]:
                self._send(name, here[name])
                self._there[name] = here[name]
        sizes = {name: size for name, (_, size) in here.items()}
        self.remote.write(INDEX, json.dumps({"files": sizes}, indent=1).encode())
        for name in [name for name in self._there if name not in here]:
            self.remote.delete(name)
            del self._there[name]

    def _send(self, name: str, mark: Mark) -> None:
        """Raises:
        FileNotFoundError: what was here under that mark is not any more.
        """
        path = self.folder / name
        try:
            self.remote.write(name, path)
        except DataError:
            if path.exists():
                raise
        if _mark(path) != mark:
            raise FileNotFoundError(path)


def require_mirror(config: Bucket) -> None:
    """Find out before a run is made whether its mirror, if it has one, takes and deletes objects.

    Raises:
        DataError: it does not, or does not answer.
        ConfigError: `obstore` is missing.
    """
    if config.bucket is None:
        return
    remote, name = _remote(config, PROBES), uuid.uuid4().hex
    try:
        remote.write(name, b"")
        remote.delete(name)
    except DataError as error:
        raise DataError(f"s3_comm_config.bucket_name={config.bucket}: {error}") from error


def fetch_run(folder: Path, config: Bucket, run: str) -> bool:
    """Bring a run from its mirror to a new folder.

    Returns:
        Whether the mirror has such a run.

    Raises:
        CheckpointError: the copy is incomplete.
        DataError: the store does not answer or refuses.
    """
    remote = _remote(config, run)
    if remote.size(INDEX) is None:
        return False
    files = json.loads(remote.read(INDEX))["files"]
    beside = folder.with_name(f".{folder.name}.coming")
    shutil.rmtree(beside, ignore_errors=True)  # of an attempt that was cut off
    for name, size in files.items():
        path = beside / name
        if not path.resolve().is_relative_to(beside.resolve()):
            raise CheckpointError(f"{remote.url}/{INDEX}: names {name!r}, outside of the run")
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(remote, name, size, path)
    os.replace(beside, folder)
    return True


def _fetch(remote: RemoteFolder, name: str, size: int, path: Path) -> None:
    with open(path, "wb") as file:
        for start in range(0, size, CHUNK_BYTES):
            file.write(remote.read_range(name, start, min(size, start + CHUNK_BYTES)))
    if path.stat().st_size != size:
        raise CheckpointError(f"{remote.url}/{name}: {path.stat().st_size} of {size} bytes there")


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
