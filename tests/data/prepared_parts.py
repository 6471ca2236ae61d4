"""What lies in prepared data: its folders' manifests, its files' bytes and its text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from photon.data.manifest import read_manifest
from photon.data.read.shards import Rows
from photon.data.tokenizer import load_tokenizer

L = 16  # tokens of a row


def parts_of(root: Path) -> dict[str, dict]:
    clients = sorted(path.name for path in root.glob("client_*"))
    names = ["validation", *(f"{c}/{p}" for c in clients for p in ("train", "validation"))]
    return {name: read_manifest(root / name) for name in names}


def bytes_of(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def text_of(root: Path, name: str, tokenizer: str) -> str:
    """All text of a folder but for what its last row leaves over, without separators."""
    rows = Rows(root / name).read(np.arange(len(Rows(root / name))))
    stream = [int(rows[0, 0]), *rows[:, 1:].flatten().tolist()]
    return load_tokenizer(Path(tokenizer)).decode(
        [t for t in stream if t], skip_special_tokens=False
    )
