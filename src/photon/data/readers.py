"""Documents of one local file: JSON lines (plain, gzip, zstd), Parquet, plain text."""

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

from photon.data.corpus import Document
from photon.errors import DataError, install_with

LINES, PARQUET, TEXT = "lines", "parquet", "text"
RECORDS = (LINES, PARQUET)
_FORMATS = {".jsonl": LINES, ".json": LINES, ".parquet": PARQUET, ".txt": TEXT, ".md": TEXT}
_PACKED = (".gz", ".zst")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a record hold what.

    Attributes:
        text: the document's text.
        source: where it comes from (source, language, domain); None: the file's own source.
    """

    text: str = "text"
    source: str | None = None


def file_format(path: Path) -> str | None:
    """`lines`, `parquet` or `text`; None for any other file."""
    suffixes = path.suffixes
    if suffixes and suffixes[-1] in _PACKED:
        inner = _FORMATS.get(suffixes[-2]) if len(suffixes) > 1 else None
        return LINES if inner == LINES else None
    return _FORMATS.get(path.suffix)


def read_file(
    path: Path,
    name: str,
    source: str,
    columns: Columns,
    start: int,
    note_share: Callable[[float], None] = lambda share: None,
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
        yield from [] if start else [(1, Document(name, source, _decode(path.read_bytes(), name)))]
        return
    reader = _json_lines if kind == LINES else _parquet
    records = reader(path, name, start, note_share)
    for place, record in records:
        where = f"{name}:{place}"
        text = record_text(record, columns.text, where)
        origin = source if columns.source is None else record_text(record, columns.source, where)
        yield place, Document(where, origin, text)


def record_text(record: Any, column: str, where: str) -> str:
    """A column of a record; an absent text is an empty one.

    Raises:
        DataError: it has no such column (those it has are named), or holds no text.
    """
    if not isinstance(record, dict):
        raise DataError(f"{where}: is no JSON object")
    if column not in record:
        raise missing_column(where, column, record)
    value = record[column]
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}: column {column!r} holds {type(value).__name__}, not text")
    return value or ""


def missing_column(where: str, column: str, columns: Iterable[str]) -> DataError:
    return DataError(
        f"{where}: no column {column!r}; there are {', '.join(sorted(columns))}; set "
        "dataset.prepare.text_column or dataset.prepare.source_column"
    )


def _json_lines(
    path: Path, name: str, start: int, note_share: Callable[[float], None]
) -> Iterator[tuple[int, Any]]:
    offset, size = 0, max(1, path.stat().st_size)
    with _unpacked(path, name) as (file, raw):
        for number, line in enumerate(file, 1):
            if number % 256 == 0 and file is not raw:
                note_share(raw.tell() / size)
            elif number % 256 == 0:
                note_share(offset / size)
            if number > start and not line.isspace():
                try:
                    yield number, json.loads(_decode(line, name, offset))
                except ValueError as error:
                    raise DataError(f"{name}:{number}: broken JSON ({error})") from error
            offset += len(line)


def _decode(data: bytes, name: str, offset: int = 0) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}: no UTF-8 at byte {offset + error.start}; convert the file to UTF-8"
        ) from error


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
    if path.suffix == ".gz":
        return gzip.open(raw, "rb")
    if path.suffix == ".zst":
        return io.BufferedReader(_ZstdFrames(raw, path.name), 1 << 20)
    return raw


class _ZstdFrames(io.RawIOBase):
    """The content of zstd frames; unlike the library's own reader it notices a missing end."""

    def __init__(self, raw: IO[bytes], name: str) -> None:
        self._raw, self._library = raw, optional("zstandard", name)
        self._frame = self._new_frame()
        self._packed, self._ready, self._in_frame = b"", memoryview(b""), False

    def _new_frame(self) -> Any:
        return self._library.ZstdDecompressor().decompressobj()

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
        except self._library.ZstdError as error:
            raise EOFError(str(error)) from error
        self._packed, self._in_frame = self._frame.unused_data, not self._frame.eof
        if self._frame.eof:
            self._frame = self._new_frame()
        return data


def _parquet(
    path: Path, name: str, start: int, note_share: Callable[[float], None]
) -> Iterator[tuple[int, Any]]:
    parquet = optional("pyarrow.parquet", name)
    try:
        file = parquet.ParquetFile(path)
        place = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            note_share(place / max(1, file.metadata.num_rows))
            if place + rows > start:
                yield from _row_group(file, group, place, start)
            place += rows
    except (OSError, ValueError) as error:  # pyarrow's own errors are kinds of these
        raise DataError(f"{name}: cannot read it ({error}); fetch the file again") from error


def _row_group(file: Any, group: int, first: int, start: int) -> Iterator[tuple[int, Any]]:
    place = first
    for batch in file.iter_batches(batch_size=1024, row_groups=[group]):
        skipped = min(max(start - place, 0), len(batch))
        yield from enumerate(batch.slice(skipped).to_pylist(), place + skipped + 1)
        place += len(batch)


def optional(module: str, wanted_by: str) -> Any:
    """Import a library of the extra `data`.

    Raises:
        DataError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise DataError(
            f"{wanted_by}: needs the package {package}: {install_with('data')}"
        ) from error
