"""Files that are their owner's alone: not of other users of the machine, and not of git."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from photon.errors import StorageError

IGNORE = ".gitignore"


def write_private(path: Path, content: bytes) -> None:
    """A new file that only its owner may read.

    Raises:
        FileExistsError: it is there already.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def own_key(path: Path, size: int) -> bytes:
    """The secret that lies in a file, made by whoever asks for it first.

    It is there whole or not at all, also where several processes ask at once.

    Raises:
        StorageError: the file holds something else.
    """
    if not path.exists():
        keep_from_git(path.parent)
        beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        write_private(beside, secrets.token_bytes(size))
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)
        beside.unlink()
    if len(key := path.read_bytes()) != size:
        raise StorageError(f"{path}: has {len(key)} bytes, a key has {size}; move it away")
    return key


def keep_from_git(folder: Path) -> None:
    """Have git leave out the private keys of a folder; all of it, if it holds nothing yet.

    What the folder's own ignore file says already stays; a folder that cannot be written stays too.
    """
    rule = "*.key" if folder.exists() and any(folder.iterdir()) else "*"
    path = folder / IGNORE
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        rules = path.read_text(encoding="utf-8") if path.exists() else ""
        if not {"*", "*.key"} & set(rules.splitlines()):
            separator = "\n" if rules and not rules.endswith("\n") else ""
            path.write_text(f"{rules}{separator}{rule}\n", encoding="utf-8")
