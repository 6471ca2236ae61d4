"""Documents of one local file: JSON lines or an array, Parquet, plain text; gzip, zstd."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from photon.data.prepare.corpus import Document
from photon.data.prepare.json_array import array_values
from photon.errors import DataError, require_package

LINES, PARQUET, TEXT = "lines", "parquet", "text"
RECORDS = (LINES, PARQUET)
_FORMATS = {
    ".jsonl": LINES, ".json": LINES, ".ndjson": LINES, ".parquet": PARQUET,
    ".txt": TEXT, ".text": TEXT, ".md": TEXT, ".markdown": TEXT,
}  # fmt: skip
_PACKED = (".gz", ".zst")
ENDINGS = (*_FORMATS, *_PACKED)
"""Of the files that are read, in lower or upper case."""
_ZSTD_WINDOW = 1 << 31
"""Bytes that the longest of all windows, of `zstd --long=31`, reaches back."""
_PIECE = 1 << 16
"""Bytes by which the beginning of a file is told."""
_MARK = b"\xef\xbb\xbf"
"""Byte-order mark with which some programs begin a UTF-8 file."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a record hold what.

    Attributes:
        text: the document's text.
        source: where it comes from (source, language, domain); None: the file's own source.
    """

    text: str = "text"
    source: str | None = None

    def wanted(self) -> dict[str, str]:
        """By column: the key below dataset.prepare that names it."""
        keys = {} if self.source is None else {self.source: "source_column"}
        return {**keys, self.text: "text_column"}


def file_format(path: Path) -> str | None:
    """`lines`, `parquet` or `text`; None for any other file."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in _PACKED:
        inner = _FORMATS.get(suffixes[0])
        return None if inner == PARQUET else inner
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def read_file(
    path: Path,
    name: str,
    source: str,
    columns: Columns,
    start: int,
    note_share: Callable[[float], None],
) -> Iterator[tuple[int, Document]]:
    """Documents of a file from a place on, each with the place behind it.

    Args:
        name: what messages and documents call the file.
        source: source of documents whose record does not say.
        start: line or row to begin at.
        note_share: told now and then how much of the file was read.

    Raises:
        DataError: naming the file and the line, row or offset: damaged, no UTF-8, no JSON object,
            no such column.
    """
    kind = file_format(path)
    if kind == TEXT:
        if not start:
            yield 1, Document(name, source, _whole_text(path, name))
        return
    if kind == PARQUET:
        records = _parquet(path, name, columns, start, note_share)
    else:
        records = _json(path, name, start, note_share)
    for place, record in records:
        yield place, document_of(record, columns, source, f"{name}:{place}")


def document_of(record: Any, columns: Columns, source: str, where: str) -> Document:
    """The document of a record.

    Args:
        source: of records that do not say it.
        where: names the record in messages and is the document's name.

    Raises:
        DataError: it is no JSON object, has no such column, or the column holds no text.
    """
    text = _column(record, columns.text, where, "text_column")
    if columns.source is not None:
        source = _column(record, columns.source, where, "source_column")
    return Document(where, source, text)


def _column(record: Any, column: str, where: str, key: str) -> str:
    """A column of a record; null, or the NaN that stands for it, is an empty text."""
    if not isinstance(record, dict):
        raise DataError(
            f"{where}: is no JSON object; make it one, as {{{json.dumps(column)}: ...}}, or remove "
            "it"
        )
    if column not in record:
        raise missing_column(where, column, record, key)
    value = record[column]
    if value is None or value != value:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{where}: column {column!r} holds {type(value).__name__}, not text; put it in quotes, "
            f"remove the record, or name another column with dataset.prepare.{key}"
        )
    return _without_halves(value)


def _without_halves(text: str) -> str:
    """A text whose half surrogate pairs, which JSON can spell and UTF-8 cannot, are U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def missing_column(where: str, column: str, columns: Iterable[str], key: str) -> DataError:
    return DataError(
        f"{where}: no column {column!r}; there are {', '.join(sorted(columns)) or 'none'}; name "
        f"another one with dataset.prepare.{key}, or leave out what lacks it"
    )


def _whole_text(path: Path, name: str) -> str:
    with _unpacked(path, name) as (file, _):
        data = file.read()
    try:
        return data.removeprefix(_MARK).decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _no_utf8(f"{name}:{line}", error.start) from error


def _json(
    path: Path, name: str, start: int, note_share: Callable[[float], None]
) -> Iterator[tuple[int, Any]]:
    """Records of JSON lines, or of one array, each with its line or its place in the array."""
    with _unpacked(path, name) as (file, raw):
        first = _first_piece(file)
        if _begins_an_object_of_lines(first, file):
            raise DataError(
                f"{name}: one object over several lines; give an array, or an object a line"
            )
        if first.lstrip().startswith(b"["):
            size = max(1, path.stat().st_size)
            values = enumerate(array_values(first, file), 1)
            with _parsing(name, name):
                yield from _later(values, start, lambda: note_share(raw.tell() / size))
            return
    yield from _json_lines(path, name, start, note_share)


def _later(
    values: Iterable[tuple[int, Any]], start: int, note: Callable[[], None]
) -> Iterator[tuple[int, Any]]:
    """Those behind a place; from time to time a note is made of how far this is."""
    for place, value in values:
        if place % 256 == 0:
            note()
        if place > start:
            yield place, value


def _first_piece(file: IO[bytes]) -> bytes:
    """The first line that is not blank, of an array its beginning: it may have one line alone."""
    piece = file.readline(_PIECE).removeprefix(_MARK)
    while piece.isspace():
        piece = file.readline(_PIECE)
    if piece.lstrip().startswith(b"[") or piece.endswith(b"\n"):
        return piece
    return piece + file.readline()


def _begins_an_object_of_lines(first: bytes, file: IO[bytes]) -> bool:
    """Whether the first line is an object's that goes on in the next; an array loses no line."""
    if not first.lstrip().startswith(b"{"):
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        following = file.readline().strip()
        return bool(following) and not following.startswith(b"{")
    return False


def _json_lines(
    path: Path, name: str, start: int, note_share: Callable[[float], None]
) -> Iterator[tuple[int, Any]]:
    offset, size = 0, max(1, path.stat().st_size)
    with _unpacked(path, name) as (file, raw):
        for number, line in enumerate(file, 1):
            if number % 256 == 0:
                note_share((raw.tell() if file is not raw else offset) / size)
            record = line.removeprefix(_MARK) if number == 1 else line
            if number > start and record and not record.isspace():
                yield number, _parsed(record, name, f"{name}:{number}", offset)
            offset += len(line)


def _parsed(data: bytes, name: str, where: str, offset: int = 0) -> Any:
    with _parsing(name, where, offset):
        return json.loads(data.decode())


@contextmanager
def _parsing(name: str, where: str, offset: int = 0) -> Iterator[None]:
    """What JSON says; `json` recurses, so that what is nested too deep for it is refused."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise _no_utf8(where, offset + error.start) from error
    except ValueError as error:
        what = "file" if where == name else "line"
        raise DataError(f"{where}: broken JSON ({error}); mend the {what} or remove it") from error
    except RecursionError as error:
        raise DataError(f"{where}: JSON that is nested too deep to read; remove it") from error


def _no_utf8(where: str, at: int) -> DataError:
    return DataError(f"{where}: no UTF-8 at byte {at} of the file; convert it to UTF-8")


@contextmanager
def _unpacked(path: Path, name: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The file's content, and the file itself."""
    try:
        with open(path, "rb") as raw:
            yield _decompressed(path, raw), raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{name}: damaged or cut off ({error}); fetch the file again") from error
    except OSError as error:
        raise DataError(f"{name}: cannot read it ({error.strerror or error})") from error


def _decompressed(path: Path, raw: IO[bytes]) -> Any:
    packing = path.suffix.lower()
    if packing == ".gz":
        return gzip.open(raw, "rb")
    if packing == ".zst":
        return io.BufferedReader(_ZstdFrames(raw), 1 << 20)
    return raw


def _zstd_frame() -> Any:
    return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()


class _ZstdFrames(io.RawIOBase):
    """The content of zstd frames; unlike the library's own reader it notices a missing end."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self._frame = raw, _zstd_frame()
        self._packed, self._ready, self._in_frame = b"", memoryview(b""), True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            self._packed = self._packed or self._raw.read(1 << 17)
            if not self._packed:
                if self._in_frame:
                    raise EOFError("the last frame has no end")
                return 0
            self._ready = memoryview(self._unpack())
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _unpack(self) -> bytes:
        try:
            data = self._frame.decompress(self._packed)
        except zstandard.ZstdError as error:
            raise EOFError(str(error)) from error
        self._packed, self._in_frame = self._frame.unused_data, not self._frame.eof
        if self._frame.eof:
            self._frame = _zstd_frame()
        return data


def _parquet(
    path: Path, name: str, columns: Columns, start: int, note_share: Callable[[float], None]
) -> Iterator[tuple[int, Any]]:
    """Rows, of which only the wanted columns are read: what is in others may be unreadable."""
    require_package("pyarrow", "data", f"{name}: needs the package pyarrow")
    from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports]

    wanted = columns.wanted()
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            for column, key in wanted.items():
                if column not in names:
                    raise missing_column(name, column, names, key)
            place = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                note_share(place / max(1, file.metadata.num_rows))
                if place + rows > start:
                    yield from _row_group(file, group, list(wanted), place, start)
                place += rows
    except (OSError, ValueError, OverflowError, ArrowException) as error:
        raise DataError(f"{name}: cannot read it ({error}); fetch the file again") from error


def _row_group(
    file: Any, group: int, columns: list[str], first: int, start: int
) -> Iterator[tuple[int, Any]]:
    place = first
    for batch in file.iter_batches(batch_size=1024, row_groups=[group], columns=columns):
        skipped = min(max(start - place, 0), len(batch))
        yield from enumerate(batch.slice(skipped).to_pylist(), place + skipped + 1)
        place += len(batch)
