"""Files that are their owner's alone: not of other users of the machine, and not of git."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

IGNORE = ".gitignore"


def write_private(path: Path, content: bytes) -> None:
    """A new file that only its owner may read.

    Raises:
        FileExistsError: it is there already.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


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
