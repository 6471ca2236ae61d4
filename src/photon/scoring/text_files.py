"""Text files to score."""

from __future__ import annotations

from pathlib import Path

from photon.errors import DataError


def read_text_file(path: Path) -> str:
    """The text of a file, as `prepare` reads it: line ends are kept, a byte-order mark is none.

    Raises:
        DataError: there is none, it is no file, no UTF-8, or empty.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder; name the files in it, each by itself") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: no UTF-8 at byte {error.start}; convert the file to UTF-8, if it is text"
        ) from error
    if not text:
        raise DataError(f"{path}: is empty; give a file with text")
    return text
