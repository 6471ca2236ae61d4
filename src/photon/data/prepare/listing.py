"""Which files below a path are read, and why the others are not."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from photon.data.manifest import is_prepared
from photon.data.prepare.readers import ENDINGS, RECORDS, file_format
from photon.errors import DataError

_NAMES = 3
_ABOUT = ("readme", "license", "licence")
"""Text files of these names tell of the records beside them, and are none of them."""
_LIKE_A_BYTE = re.compile(rb"\\(?=x[0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of text or of records.

    Attributes:
        name: path below the source's root.
        source: first folder below the root; of a file in the root its name up to the first dot.
        size: bytes on disk.
    """

    path: Path
    name: str
    source: str
    size: int
    mtime_ns: int

    @property
    def is_document(self) -> bool:
        """Whether the whole file is one document."""
        return file_format(self.path) not in RECORDS

    def describe(self) -> dict[str, Any]:
        """The file as a manifest names it."""
        return {"file": self.name, "bytes": self.size, "mtime_ns": self.mtime_ns}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or folder that is not read."""

    name: str
    reason: str


def find_files(root: Path) -> tuple[list[SourceFile], list[LeftOut]]:
    """Files at or below a path that are read, by name, and whatever else there is.

    Links are followed; each file and folder is taken once, where it really is if that is below the
    path. A file that is named itself is read even if it is hidden.

    Raises:
        DataError: nothing there that can be read, or a folder that cannot be listed.
    """
    if not root.exists():
        raise DataError(f"{root}: no such file or folder")
    base = root if root.is_dir() else root.parent
    files, left_out = [], []
    taken: set[str] = set()
    for path, reason in _below(root) if root.is_dir() else [(root, None)]:
        if (why := reason or _why_not(path, base if path != root else path, taken)) is None:
            files.append(_source_file(path, base))
            taken.add(os.path.realpath(path))
        else:
            left_out.append(LeftOut(_name(path, base), why))
    files, about = _without_about(files)
    if not files:
        found = f" ({'; '.join(phrases(by_reason(left_out)))})" if left_out else ""
        raise DataError(f"{root}: no text here{found}; it reads {', '.join(ENDINGS)}")
    return sorted(files, key=lambda file: file.name), [*left_out, *about]


def require_sound(files: Sequence[SourceFile]) -> None:
    """Refuse files that their first and last bytes show not to be what they are called.

    All of them at once: who has 10,000 files would else find the next one an hour later.

    Args:
        files: that will all be read.

    Raises:
        DataError: naming each of them.
    """
    faults = [LeftOut(file.name, why) for file in files if (why := _fault(file)) is not None]
    if faults:
        names = "; ".join(f"{one.name}: {one.reason}" for one in faults)
        raise DataError(
            f"{len(faults):,} of {len(files):,} files cannot be read ({names}); fetch them again, "
            "or remove them"
        )


def _fault(file: SourceFile) -> str | None:
    try:
        with open(file.path, "rb") as opened:
            head = opened.read(4)
            opened.seek(max(0, file.size - 4))
            end = opened.read(4)
    except OSError as error:
        return str(error.strerror)
    match file.path.suffix.lower():
        case ".gz" if head and head[:2] != b"\x1f\x8b":
            return "no gzip"
        case ".zst" if head != b"\x28\xb5\x2f\xfd" and head[1:] != b"\x2a\x4d\x18":
            return "no zstd"
        case ".parquet" if head != b"PAR1":
            return "no Parquet"
        case ".parquet" if end != head or file.size < 12:
            return "Parquet that is cut off"
    return None


def by_reason(left_out: Iterable[LeftOut]) -> dict[str, dict[str, Any]]:
    """For each reason, how many files there are and the first few names."""
    names: dict[str, list[str]] = {}
    for one in left_out:
        names.setdefault(one.reason, []).append(one.name)
    return {
        reason: {"files": len(found), "names": sorted(found)[:_NAMES]}
        for reason, found in sorted(names.items())
    }


def phrases(reasons: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What was left out, as `by_reason` gives it, a phrase for each reason."""
    return [f"{entry['files']:,} {reason} ({_some(entry)})" for reason, entry in reasons.items()]


def _some(entry: Mapping[str, Any]) -> str:
    more = entry["files"] - len(entry["names"])
    return ", ".join(entry["names"]) + (f" and {more} more" if more else "")


def _below(root: Path) -> Iterator[tuple[Path, str | None]]:
    """Every file below a folder, those that are no links first; a folder that is not entered comes
    with the reason. Real folders before links to folders, so that a link never takes their place.
    """
    entered: set[str] = set()
    folders, linked, files = deque([root]), deque(), []
    while folders or linked:
        folder = (folders or linked).popleft()
        if (real := os.path.realpath(folder)) in entered:
            yield folder, "linked to what is read already"
            continue
        entered.add(real)
        if is_prepared(folder):
            yield folder, "prepared already"
            continue
        for path in _entries(folder):
            if path.is_dir():
                (linked if path.is_symlink() else folders).append(path)
            else:
                files.append(path)
    yield from ((path, None) for path in sorted(files, key=lambda p: (p.is_symlink(), p)))


def _entries(folder: Path) -> Sequence[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot list it ({error.strerror})") from error


def _why_not(path: Path, base: Path, taken: set[str]) -> str | None:
    """Why a file is left out; None: it is read."""
    if any(part.startswith(".") for part in path.relative_to(base).parts):
        return "hidden"
    if not path.exists():
        return "linked to nothing"
    if not path.is_file():
        return "no regular file"
    if file_format(path) is None:
        return "of another kind"
    return "linked to what is read already" if os.path.realpath(path) in taken else None


def _without_about(files: Sequence[SourceFile]) -> tuple[list[SourceFile], list[LeftOut]]:
    """Where there are records, a README is no text to train on."""
    if all(file.is_document for file in files):
        return list(files), []
    about = [f.is_document and f.path.name.lower().startswith(_ABOUT) for f in files]
    why = "about the records beside it"
    return (
        [f for f, is_about in zip(files, about, strict=True) if not is_about],
        [LeftOut(f.name, why) for f in compress(files, about)],
    )


def _source_file(path: Path, base: Path) -> SourceFile:
    name = _name(path, base)
    parts = name.split("/")
    source = parts[0] if len(parts) > 1 else name.split(".")[0]
    facts = path.stat()
    return SourceFile(path, name, source, facts.st_size, facts.st_mtime_ns)


def _name(path: Path, base: Path) -> str:
    """Path below the base, as text that can be written anywhere, another one for each path.

    A byte that is no UTF-8 is written \\xff; a backslash that would look like one is \\x5c.
    """
    name = os.fsencode(path.relative_to(base).as_posix())
    return _LIKE_A_BYTE.sub(rb"\\x5c", name).decode("utf-8", "backslashreplace")
