"""A part of a data set while it is made: its rows, and the documents that they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from photon.data.manifest import DOCUMENTS, read_part
from photon.data.prepare.routing import Routed
from photon.data.prepare.writer import ShardWriter
from photon.errors import storing
from photon.files import sync


class Part:
    """One folder that documents are added to.

    Args:
        sequence_length, vocab_size, wrap: as of `ShardWriter`.
        position: where to go on, as another part's `position()` told; None: at the beginning.
    """

    def __init__(
        self,
        folder: Path,
        sequence_length: int,
        vocab_size: int,
        wrap: bool,
        position: Mapping[str, Any] | None,
    ) -> None:
        known = position or {"rows": None, "documents": 0, "text_bytes": 0, "sources": {}}
        self.rows = ShardWriter(
            folder, sequence_length, vocab_size, wrap=wrap, position=known["rows"]
        )
        self.documents, self.text_bytes = known["documents"], known["text_bytes"]
        self.sources = {name: list(counts) for name, counts in known["sources"].items()}
        self._digests: list[int] = []
        self._file = folder / DOCUMENTS
        with storing(folder), open(self._file, "ab") as file:
            file.truncate(self.documents * 8)

    def add(self, routed: Routed, tokens: np.ndarray, text_bytes: int) -> None:
        """Append a document's tokens, or as many as there is room for, and count their text."""
        self.rows.append(tokens)
        self.documents += 1
        self.text_bytes += text_bytes
        counts = self.sources.setdefault(routed.document.source, [0, 0])
        counts[0] += 1
        counts[1] += len(tokens)
        self._digests.append(routed.digest)

    def position(self) -> dict[str, Any]:
        """Where the part stands, once all before it is on disk."""
        self._write_digests()
        return {
            "rows": self.rows.position(),
            "documents": self.documents,
            "text_bytes": self.text_bytes,
            "sources": {name: list(counts) for name, counts in self.sources.items()},
        }

    def end(self) -> None:
        """No more documents come; see `ShardWriter.end`."""
        self.rows.end()

    def finish(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write the folder's manifest; see `ShardWriter.finish`."""
        self._write_digests()
        return self.rows.finish(
            {
                **facts,
                "documents": self.documents,
                "document_hashes": self._hashes(),
                "text_bytes": self.text_bytes,
                "sources": sorted(self.sources),
                "source_documents": {name: n for name, (n, _) in sorted(self.sources.items())},
                "source_tokens": {name: n for name, (_, n) in sorted(self.sources.items())},
            }
        )

    def _hashes(self) -> dict[str, Any]:
        """The file of hashes, as a manifest has it."""
        with open(self._file, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return {"file": DOCUMENTS, "bytes": 8 * self.documents, "sha256": sha256}

    def _write_digests(self) -> None:
        digests, self._digests = self._digests, []
        with storing(self._file.parent), open(self._file, "ab") as file:
            file.write(np.array(digests, dtype="<u8").tobytes())
            sync(file)


def read_digests(folder: Path) -> np.ndarray | None:
    """Hashes of a folder's documents; None where not all of them are known."""
    path = folder / DOCUMENTS
    if not path.exists():
        return None
    found = np.fromfile(path, dtype="<u8")
    return found if len(found) == read_part(folder).get("documents") else None
