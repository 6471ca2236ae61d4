"""Where text comes from: local files, listed in a fixed order, each document with an address."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from photon.data.prepare.corpus import Document
from photon.data.prepare.listing import SourceFile
from photon.data.prepare.readers import Columns, read_file
from photon.errors import DataError

TRAIN, VALIDATION = "train", "validation"


class Source(Protocol):
    """Text in numbered files; a document is addressed by its file and its place there."""

    def num_files(self) -> int: ...

    def size(self, file: int) -> int:
        """Of a file, in a unit that all have in common."""
        ...

    def documents(self, file: int, start: int) -> Iterator[tuple[int, Document]]:
        """Documents of a file from a place on, each with the place behind it."""
        ...

    def share(self, order: Sequence[int], reading: int) -> float | None:
        """How much has been read, roughly, when files are read in an order; None: unknown.

        Args:
            reading: which place of the order is being read.
        """
        ...


class LocalSource:
    """Some local files.

    Args:
        files: in their order.
        columns: which columns of their records hold what.
        copies: further files with the content of one of them, not read.
    """

    def __init__(
        self, files: Sequence[SourceFile], columns: Columns, copies: Sequence[SourceFile] = ()
    ) -> None:
        self.files, self.columns, self.copies = tuple(files), columns, tuple(copies)
        self._share_of_file = 0.0

    def require_unchanged(self) -> None:
        """Refuse files that are not as they were listed.

        Raises:
            DataError: one was changed meanwhile.
        """
        for file in (*self.files, *self.copies):
            _require_unchanged(file)

    def describe(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """The files as a manifest names them, those with these numbers, which were read, by their
        SHA-256 too.

        Raises:
            DataError: one that was read was changed meanwhile.
        """
        copies = {file.name for file in self.copies}
        read = {self.files[number].name for number in numbers} | copies
        described = []
        for file in (*self.files, *self.copies):
            entry = file.describe()
            if file.name in read:
                entry["sha256"] = _digest_of(file)
            if file.name in copies:
                entry["copy"] = True
            described.append(entry)
        return described

    def num_files(self) -> int:
        return len(self.files)

    def size(self, file: int) -> int:
        return self.files[file].size

    def documents(self, file: int, start: int) -> Iterator[tuple[int, Document]]:
        entry = self.files[file]
        self._share_of_file = 0.0
        return read_file(
            entry.path, entry.name, entry.source, self.columns, start, self._note_share
        )

    def share(self, order: Sequence[int], reading: int) -> float | None:
        sizes = [self.files[file].size for file in order]
        now = sizes[reading] * self._share_of_file if reading < len(sizes) else 0
        return (sum(sizes[:reading]) + now) / max(1, sum(sizes))

    def _note_share(self, share: float) -> None:
        self._share_of_file = share


def require_readable(files: Sequence[SourceFile], columns: Columns) -> None:
    """Refuse texts that are no UTF-8, and files whose first record is none with these columns.

    That costs little beside tokenizing; what is in the middle of records is found as it is read.

    Raises:
        DataError: what is wrong with the first, and the names of the others.
    """
    faults = [(file.name, why) for file in files if (why := _fault(file, columns)) is not None]
    if faults:
        names = ", ".join(name for name, _ in faults[1:])
        more = f"; {len(faults) - 1:,} more cannot be read: {names}" if names else ""
        raise DataError(f"{faults[0][1]}{more}")


def _fault(file: SourceFile, columns: Columns) -> str | None:
    """Of Parquet the columns alone are looked at: no row is behind the last."""
    start = sys.maxsize if file.path.suffix.lower() == ".parquet" else 0
    read = read_file(file.path, file.name, file.source, columns, start, lambda share: None)
    try:
        next(read, None)
    except DataError as error:
        return str(error)
    return None


def without_copies(files: Sequence[SourceFile]) -> tuple[list[SourceFile], list[SourceFile]]:
    """Files with different content, of equal ones the first; and the others."""
    first: dict[str, SourceFile] = {}
    for file in files:
        first.setdefault(_digest_of(file), file)
    different = {file.name for file in first.values()}
    return list(first.values()), [file for file in files if file.name not in different]


def by_split(files: Sequence[SourceFile]) -> tuple[list[SourceFile], list[SourceFile]]:
    """Training and validation files of records: a name (or folder) with `validation` is the latter.

    Text files are all for training; a part of them is held out later.
    """
    parts: tuple[list[SourceFile], list[SourceFile]] = ([], [])
    for file in files:
        parts[not file.is_document and VALIDATION in file.name.lower()].append(file)
    return parts


def changed_file(files: Sequence[SourceFile], recorded: Sequence[dict[str, Any]]) -> str | None:
    """What differs between files and their record, in words; None if nothing does.

    A file with another time but the recorded size and SHA-256 is unchanged; one that was recorded
    without a SHA-256 was not read.
    """
    known = {entry["file"]: entry for entry in recorded}
    for file in files:
        entry = known.pop(file.name, None)
        if entry is None:
            return f"{file.name} is new"
        if file.size != entry["bytes"]:
            return f"{file.name} has {file.size} bytes, had {entry['bytes']}"
        was_read = "sha256" in entry
        same_time = file.mtime_ns == entry["mtime_ns"]
        if was_read and not same_time and _digest_of(file) != entry["sha256"]:
            return f"{file.name} has other content"
    return f"{next(iter(known))} is gone" if known else None


def _require_unchanged(file: SourceFile) -> None:
    facts = file.path.stat() if file.path.exists() else None
    if facts is None or (facts.st_size, facts.st_mtime_ns) != (file.size, file.mtime_ns):
        raise DataError(f"{file.path}: was changed while it was read; prepare it anew")


@cache
def _digest_of(file: SourceFile) -> str:
    """SHA-256 of a file that is as it was listed; it is read once for it.

    Raises:
        DataError: it was changed since, or cannot be read.
    """
    digest = _file_digest(file.path)
    _require_unchanged(file)
    return digest


def _file_digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror})") from error
