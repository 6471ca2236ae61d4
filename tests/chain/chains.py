"""A run's chain by hand: its lines, its hashes, and what is found wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blake3 import blake3

from photon.chain.ledger import FILE, whole_lines
from photon.chain.verify import verify_run
from photon.run import artifact


def faults(folder: Path) -> list[str]:
    return [f"{one.what}: {one.text}" for one in verify_run(folder) if one.verdict == "fail"]


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in whole_lines(folder / FILE)]


def write(folder: Path, lines: list[Any]) -> None:
    """Lines of a chain as whoever writes them by hand would, in their one form."""
    text = [line if isinstance(line, bytes) else compact(line) for line in lines]
    (folder / FILE).write_bytes(b"".join(line + b"\n" for line in text))


def compact(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def hash_by_hand(domain: str, value: Any) -> str:
    return blake3(domain.encode() + b"\0" + compact(value)).hexdigest()


def rewrite(path: Path, source: Path, facts: dict[str, Any]) -> None:
    """A checkpoint that is sound in itself, of another one's tensors and of these facts."""
    saved = artifact.read(source)
    loaded = {part: saved.load(part) for part in saved.files}
    parts = {p: ({n: v.clone() for n, v in its.items()}, f) for p, (its, f) in loaded.items()}
    artifact.save(path.parent, path.stem, parts, facts)
