"""Files of a remote folder, kept in a local one under a limit of bytes.

The local folder mirrors the remote one, so that a whole mirror is a data folder of its own. Several
processes may share it; what they agree on is in the file system alone:

cache.lock                      held while room is made
cache.folders                   the folders that shards were brought to, a line each: what their
                                manifests name may be forgotten, and nothing else
shard_00000.bin                 whole, its hash checked; its time stamp says when it was last used;
                                whoever reads it holds a shared lock on it
shard_00000.bin.BYTES.part      on its way, BYTES long in the end; whoever downloads it holds an
                                exclusive lock on it; a killed download goes on where it stopped
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from photon.data.manifest import MANIFEST, known_parts, read_manifest, read_part
from photon.data.read.checksum import Checksum
from photon.data.read.remote import RemoteFolder
from photon.errors import DataError, StorageError, storing
from photon.files import is_at, new_file, try_lock, wait_for_shared_lock

PIECE_BYTES = 1 << 24
"""Bytes of one request."""

_LOCK, _FOLDERS = "cache.lock", "cache.folders"
_HARMLESS = rf"\..*|lost\+found|{re.escape(MANIFEST)}\.\d+\.tmp"
"""Names of what desktops, file systems and another process that opens the cache too put there."""

_POLL_SECONDS = 0.05


class Cache:
    """Brings files of a remote folder on first use, and forgets the shards used least recently.

    Args:
        remote: where the files are.
        root: the local folder.
        limit: most bytes of shards kept here; None keeps all.
    """

    def __init__(self, remote: RemoteFolder, root: Path, limit: int | None = None) -> None:
        self.remote, self.root, self.limit = remote, root, limit

    def open(self) -> None:
        """Bring the manifest of the whole, and make sure that what is kept here belongs to it.

        Raises:
            DataError: the store does not answer, or the folder holds other data or something else.
        """
        fresh = self.remote.read(MANIFEST)
        path = self.root / MANIFEST
        self._require_own_folder()
        if path.exists() and path.read_bytes() != fresh:
            raise DataError(
                f"{self.root}: caches other data than {self.remote.url} holds; name another "
                "root_local or remove this folder"
            )
        self._write(path, fresh)
        read_manifest(self.root)

    def _require_own_folder(self) -> None:
        """Refuse a folder of other things, among which a cache would be hard to tell apart."""
        entries = os.listdir(self.root) if self.root.is_dir() else []
        foreign = [name for name in entries if not re.fullmatch(_HARMLESS, name)]
        if foreign and not {MANIFEST, _LOCK} & set(entries):
            raise DataError(
                f"{self.root}: is no cache and not empty ({min(foreign)}); name a folder for the "
                "cache alone, dataset.train.root_local (or dataset.val.root_local)"
            )

    def bring(self, path: Path) -> None:
        """Make sure that a small file is here.

        Args:
            path: below `root`.
        """
        if not path.exists():
            self._write(path, self.remote.read(self._name(path)))

    @contextmanager
    def hold(self, path: Path, entry: dict[str, Any]) -> Iterator[None]:
        """Make sure that a shard is here, and keep it for the length of a block.

        Args:
            path: below `root`.
            entry: what the manifest says about it.

        Raises:
            DataError: the store does not answer, or what it gives is not what was written.
            StorageError: no room on the disk or under the limit.
        """
        while True:
            self._ensure(path, entry)
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue  # forgotten in between
            with _closing(descriptor):
                wait_for_shared_lock(descriptor)
                if is_at(descriptor, path):
                    os.utime(path)
                    yield
                    return

    def _ensure(self, path: Path, entry: dict[str, Any]) -> None:
        if path.exists():
            return
        self._require_size(path, entry["bytes"])
        part = _part_of(path, entry["bytes"])
        patience = _Patience(self.remote.timeout * (self.remote.retry + 1))
        while not path.exists():
            with storing(path, "cannot keep this shard"):
                descriptor = self._claim(path, part, entry["bytes"])
                if descriptor is not None:
                    with _closing(descriptor):
                        self._download(descriptor, path, part, entry)
            if descriptor is None:
                patience.wait(part)

    def _claim(self, path: Path, part: Path, size: int) -> int | None:
        """Reserve room and take the right to download; None while others stand in the way."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.root / _LOCK):
            self._note_folder(path.parent)
            if path.exists() or not (part.exists() or self._make_room(size)):
                return None
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
            if try_lock(descriptor) and is_at(descriptor, part):
                return descriptor
            os.close(descriptor)
            return None

    def _make_room(self, size: int) -> bool:
        """Forget shards, least recently used first, until `size` bytes fit; False: all in use."""
        if self.limit is None:
            return True
        if size > self.limit:
            raise StorageError(
                f"{self.root}: a shard of {size:,} bytes does not fit under "
                f"cache_limit={self.limit:,}; raise it"
            )
        kept = sorted(self._kept())
        total = sum(file_size for _, file_size, _ in kept)
        for _, file_size, path in kept:
            if total + size <= self.limit:
                break
            total -= file_size if _forget(path) else 0
        return total + size <= self.limit

    def _note_folder(self, folder: Path) -> None:
        """Say that what the folder's manifest names is of this cache; the lock is held."""
        name = folder.relative_to(self.root).as_posix()
        if name not in self._noted_folders():
            with open(self.root / _FOLDERS, "a", encoding="utf-8") as file:
                file.write(f"{name}\n")

    def _noted_folders(self) -> list[str]:
        path = self.root / _FOLDERS
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def _kept(self) -> Iterator[tuple[float, int, Path]]:
        """(last use, bytes, path) of every shard and of every download, at the size it will have.

        A cache of an earlier version has noted nothing: what the root's manifest names counts, too.
        """
        for name in {*known_parts(read_manifest(self.root)), *self._noted_folders()}:
            for shard, size in _shards_of(self.root / name):
                # one that ends in between counts twice, never not at all
                for path in (_part_of(shard, size), shard):
                    try:
                        yield path.stat().st_mtime, size, path
                    except FileNotFoundError:
                        continue

    def _download(self, descriptor: int, path: Path, part: Path, entry: dict[str, Any]) -> None:
        """Fill a claimed part, check it, and put it in its place."""
        resumed = os.fstat(descriptor).st_size > 0
        for _ in range(self.remote.retry + 1 + resumed):
            checksum = self._fill(descriptor, path, entry["bytes"])
            if checksum.sha256 == entry["sha256"]:
                os.fsync(descriptor)
                os.rename(part, path)
                return
            os.ftruncate(descriptor, 0)
        os.unlink(part)
        raise DataError(
            f"{self.remote.url}/{self._name(path)}: its hash is not the manifest's, "
            f"{self.remote.retry + 1} times; push the data again"
        )

    def _require_size(self, path: Path, size: int) -> None:
        found = self.remote.size(self._name(path))
        if found != size:
            what = "no such object" if found is None else f"has {found:,} bytes"
            raise DataError(
                f"{self.remote.url}/{self._name(path)}: {what}, the manifest says {size:,} bytes; "
                "push the data again"
            )

    def _fill(self, descriptor: int, path: Path, size: int) -> Checksum:
        checksum, name = Checksum(), self._name(path)
        have = os.fstat(descriptor).st_size
        os.lseek(descriptor, 0, os.SEEK_SET)
        while checksum.size < have:
            checksum.update(os.read(descriptor, PIECE_BYTES))
        while checksum.size < size:
            start = checksum.size
            piece = self.remote.read_range(name, start, min(start + PIECE_BYTES, size))
            _write_all(descriptor, piece)
            checksum.update(piece)
        return checksum

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _write(self, path: Path, data: bytes) -> None:
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(path, durable=False, suffix=f".{os.getpid()}.tmp") as file:
                file.write(data)


class _Patience:
    """Waits for another process as long as its download grows, else up to `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._seen, self._since = -1, time.monotonic()

    def wait(self, part: Path) -> None:
        size = part.stat().st_size if part.exists() else -1
        if size != self._seen:
            self._seen, self._since = size, time.monotonic()
        if time.monotonic() - self._since > self.seconds:
            raise StorageError(
                f"{part}: no room and no progress for {self.seconds:g} s; the shards in use fill "
                "cache_limit, or another process hangs: raise the limit or stop that process"
            )
        time.sleep(_POLL_SECONDS)


def _part_of(shard: Path, size: int) -> Path:
    """Where a shard of that size is while it is on its way."""
    return shard.with_name(f"{shard.name}.{size}.part")


def _shards_of(folder: Path) -> list[tuple[Path, int]]:
    """The shards that a folder's manifest names, and their bytes; none without one."""
    try:
        facts = (folder / MANIFEST).stat()
    except FileNotFoundError:
        return []
    return _named_shards(folder, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=4096)
def _named_shards(folder: Path, mtime_ns: int, size: int) -> list[tuple[Path, int]]:
    return [(folder / shard["file"], shard["bytes"]) for shard in read_part(folder)["shards"]]


def _forget(path: Path) -> bool:
    """Remove a file unless somebody holds it; whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    with _closing(descriptor):
        if not try_lock(descriptor):
            return False
        if is_at(descriptor, path):
            os.unlink(path)
        return True


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path, patience: float = 60.0) -> Iterator[None]:
    """Hold a lock file; it frees itself with the process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    with _closing(descriptor):
        deadline = time.monotonic() + patience
        while not try_lock(descriptor):
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, "another process holds the lock", str(path))
            time.sleep(_POLL_SECONDS / 5)
        yield
