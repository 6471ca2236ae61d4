"""Values of a JSON array, one after the other: what has been read of it is not held."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from json import JSONDecodeError
from typing import IO, Any

_CHUNK = 1 << 20
_NEAR = 16
"""Characters before its end within which a text that is cut off has its fault, but for strings."""
_SPACE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode


def array_values(head: bytes, file: IO[bytes]) -> Iterator[Any]:
    """Values of the array that a file holds.

    Args:
        head: its beginning, which has been read already.

    Raises:
        JSONDecodeError, UnicodeDecodeError: with the place in the whole text; after the values
            before it.
        RecursionError: it is nested too deep.
    """
    text = _Text(head, file)
    text.take("[")
    if text.next() == "]":
        text.at += 1
    else:
        yield text.value()
        while text.take(",]") == ",":
            yield text.value()
    if text.next():
        raise text.fault("Extra data", text.at)


class _Text:
    """The part of a file's text that is held, and how far it is read.

    Attributes:
        at: place in it.
    """

    def __init__(self, head: bytes, file: IO[bytes]) -> None:
        self._head, self._file = head, file
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._text, self.at, self._is_whole = "", 0, False
        self._bytes = self._chars = self._lines = 0

    def next(self) -> str:
        """The next character that is no space; at the end none."""
        while True:
            found = _SPACE.match(self._text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self._text) or self._is_whole:
                return self._text[self.at : self.at + 1]
            self._grow()

    def take(self, among: str) -> str:
        found = self.next()
        if not found or found not in among:
            raise self.fault("Expecting ',' delimiter", self.at)
        self.at += 1
        return found

    def value(self) -> Any:
        self.next()
        while True:
            try:
                value, end = _decode(self._text, self.at)
            except JSONDecodeError as error:
                is_cut = "Unterminated" in error.msg or error.pos + _NEAR > len(self._text)
                if self._is_whole or not is_cut:
                    raise self.fault(error.msg, error.pos) from None
            else:
                if end < len(self._text) or self._is_whole:  # or a number might go on
                    self.at = end
                    return value
            self._grow()

    def fault(self, what: str, at: int) -> JSONDecodeError:
        found = JSONDecodeError(what, self._text, at)
        line, char = self._lines + found.lineno, self._chars + at
        found.args = (f"{what}: line {line} (char {char})",)
        return found

    def _grow(self) -> None:
        """Leave out what is read, and hold twice as much of what is not, a chunk at least."""
        size = max(_CHUNK, len(self._text) - self.at)
        data, self._head = self._head or self._file.read(size), b""
        self._chars += self.at
        self._lines += self._text.count("\n", 0, self.at)
        before = self._bytes - len(self._utf8.getstate()[0])
        try:
            more = self._utf8.decode(data, not data)
        except UnicodeDecodeError as error:
            error.start += before
            raise
        self._text, self.at = self._text[self.at :] + more, 0
        self._bytes, self._is_whole = self._bytes + len(data), not data
