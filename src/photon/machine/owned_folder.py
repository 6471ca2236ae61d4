"""Folders of one process in a place of all: named by their owner, so that the dead leave nothing.

A name holds its owner: process id, start time and the namespace in which the id counts. Whoever
makes the next folder there deletes those of this user whose owner has ended, so nothing stays
behind a kill -9 for long.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATTERN = "photon-*-*-*-*"


def make_folder(root: Path, label: str = "") -> Path:
    """A new folder of this process, readable by nobody else."""
    sweep(root)
    owner = f"{os.getpid()}-{_start_time(os.getpid())}-{_namespace()}"
    return Path(tempfile.mkdtemp(prefix=f"photon-{owner}-{label}", dir=root))


@contextmanager
def sockets_folder() -> Iterator[Path]:
    """A folder for Unix sockets, whose paths must be short, for the time of a block."""
    folder = make_folder(Path(tempfile.gettempdir()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(root: Path) -> None:
    """Delete this user's folders whose owner has ended, as far as this namespace can tell."""
    for folder in root.glob(PATTERN):
        _, pid, started, namespace, _ = folder.name.split("-", 4)
        if (
            namespace == _namespace()
            and pid.isdecimal()
            and _is_ours(folder)
            and _start_time(int(pid)) != started
        ):
            shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    try:
        return folder.lstat().st_uid == os.getuid()
    except OSError:
        return False  # somebody was quicker


def _start_time(pid: int) -> str:
    """When a process began, in the kernel's ticks (0 where it does not say); empty: it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass  # another user's
    return "0"


def _namespace() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return "0"
