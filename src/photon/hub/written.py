"""What an export wrote, so that only that is ever replaced."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from photon.container.hashing import HASH
from photon.errors import RunFolderError

FILES = "files"
"""Entry of an export's photon.json: hash of each other file that it wrote, by its name."""
NAMES = ("README.md", "*config.json", "tokenizer.json", "model*.safetensors", "*.index.json")
"""Of what exports wrote before there was that entry."""


def hashes(folder: Path) -> dict[str, str | None]:
    """Hash of each file in a folder, by its name."""
    return {name: _hash(folder / name) for name in _files(folder)}


def require_own(folder: Path, marker: str, facts: dict[str, Any]) -> None:
    """Refuse to replace an export into which somebody has put something.

    Args:
        marker: the name of its photon.json.
        facts: what that says.

    Raises:
        RunFolderError: naming a file that the export did not write, or that was changed since.
    """
    listed = facts.get(FILES)
    for name in _files(folder):
        if name == marker:
            continue
        if not isinstance(listed, dict):
            is_known = any(fnmatchcase(name, known) for known in NAMES)
        else:
            is_known = name in listed
        if not is_known:
            raise _refused(folder, f"holds {name}, which no export wrote")
        if isinstance(listed, dict) and listed[name] != _hash(folder / name):
            raise _refused(folder, f"{name} was changed since it was exported")


def _refused(folder: Path, reason: str) -> RunFolderError:
    return RunFolderError(
        f"{folder}: {reason}, and replacing the folder would lose it; move it elsewhere, or export "
        "to another folder"
    )


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix()


def _hash(path: Path) -> str | None:
    """None: nothing that an export writes, such as a link."""
    if path.is_symlink() or not path.is_file():
        return None
    return HASH(max_threads=HASH.AUTO).update_mmap(path).hexdigest()
