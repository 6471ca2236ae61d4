"""The embedded corpus: the source of the running Python's own standard library."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from pathlib import Path

from photon.errors import DataError

_LEFT_OUT = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib"}


@dataclass(frozen=True, slots=True)
class Document:
    """One document, or a stretch of one.

    Attributes:
        name: stable; messages and digests have it.
        source: where it comes from: language, domain, package.
        continued: a stretch whose document begins in an earlier one.
    """

    name: str
    source: str
    text: str
    continued: bool = False

    @property
    def size(self) -> int:
        return len(self.text)


def standard_library(max_bytes: int) -> list[Document]:
    """The library's modules in the order of their paths; a module's package is its source.

    Args:
        max_bytes: stop before the text would grow beyond this.

    Raises:
        DataError: no Python source is there (some embedded Pythons ship only bytecode).
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    documents: list[Document] = []
    total = 0
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _LEFT_OUT & set(relative.parts):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        size = len(text.encode())
        if not text.strip():
            continue
        if total + size > max_bytes:
            break
        source = relative.parts[0] if len(relative.parts) > 1 else "top-level"
        documents.append(Document(relative.as_posix(), source, text))
        total += size
    if not documents:
        raise DataError(f"{root}: no Python source for the embedded corpus")
    return documents
