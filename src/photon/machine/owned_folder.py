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

from photon.machine.owner import namespace, start_time

PATTERN = "photon-*-*-*-*"
LONGEST_ROOT = 50
"""Bytes of a path that leave room for an owner's and a socket's name: 103 are taken in all, 107 by
Linux."""


def make_folder(root: Path, label: str = "") -> Path:
    """A new folder of this process, readable by nobody else."""
    sweep(root)
    owner = f"{os.getpid()}-{start_time(os.getpid())}-{namespace()}"
    return Path(tempfile.mkdtemp(prefix=f"photon-{owner}-{label}", dir=root))


@contextmanager
def sockets_folder() -> Iterator[Path]:
    """A folder for Unix sockets, for the time of a block: their paths must be short, and without
    quotes, since a SuperNode is told them in quotes.
    """
    root = Path(tempfile.gettempdir())
    is_fit = len(os.fsencode(root)) <= LONGEST_ROOT and not set(str(root)) & set("'\"")
    folder = make_folder(root if is_fit else Path("/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(root: Path) -> None:
    """Delete this user's folders whose owner has ended, as far as this namespace can tell."""
    for folder in root.glob(PATTERN):
        _, pid, started, place, _ = folder.name.split("-", 4)
        if (
            place == namespace()
            and pid.isdecimal()
            and _is_ours(folder)
            and start_time(int(pid)) != started
        ):
            shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    try:
        return folder.lstat().st_uid == os.getuid()
    except OSError:
        return False  # somebody was quicker
