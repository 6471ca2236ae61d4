"""The JSON manifests of prepared data: of each part, a folder of shards, and of the whole set."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from photon.errors import DataError
from photon.files import new_file

MANIFEST = "manifest.json"
DOCUMENTS = "documents.bin"
"""Hashes of a part's documents, 8 bytes each, little-endian; they stay where they were made."""
FORMAT = 1
_MOST_BYTES = 1 << 28
"""Of a file that may be a manifest; one entry for each token of a vocabulary is a few MB."""


def clients_of(manifest: dict[str, Any]) -> range:
    """Numbers of the clients that a data set was prepared for."""
    settings = manifest["settings"]
    first = settings.get("first_client", 0)
    return range(first, first + settings["num_clients"])


def part_digest(manifest: Mapping[str, Any]) -> str:
    """Hex digest of a part's shards, by which the manifest of the whole knows the part."""
    return _digest(manifest["shards"])


def known_parts(whole: Mapping[str, Any]) -> dict[str, str]:
    """Digest of each part by its folder; manifests of earlier versions do not know their parts.

    Raises:
        DataError: a name leads out of the data set's folder.
    """
    parts = whole.get("parts")
    names = parts if isinstance(parts, dict) else {}
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise DataError(f"a manifest names the part {name!r}, which leads out of its folder")
    return names


def sum_of_parts(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a data set's manifest says of its parts.

    Args:
        parts: the manifest of each, by its folder.
    """
    ordered = sorted(parts.items())
    return {
        "format": FORMAT,
        "train_tokens": sum(part["tokens"] for name, part in ordered if name.endswith("/train")),
        "parts": {name: part_digest(part) for name, part in ordered},
        "digest": _digest(shard for _, part in ordered for shard in part["shards"]),
    }


def _digest(shards: Iterable[Mapping[str, Any]]) -> str:
    return hashlib.sha256("".join(shard["sha256"] for shard in shards).encode()).hexdigest()[:16]


def finite(value: Any) -> Any:
    """JSON values, with null in the place of a number that JSON has not."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace a JSON file atomically and durably."""
    with new_file(path) as file:
        file.write(_legible(value).encode())


def _legible(value: dict[str, Any]) -> str:
    """Indented for people; a list, such as one count per token, on one line."""
    lines = [
        f" {json.dumps(key)}: "
        + json.dumps(entry, sort_keys=True, indent=None if isinstance(entry, list) else 1)
        for key, entry in sorted(value.items())
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_whole(folder: Path) -> dict[str, Any]:
    """The manifest of a data set.

    Raises:
        DataError: also where the folder is a part of one.
    """
    manifest = read_manifest(folder)
    if "shards" in manifest:
        raise DataError(
            f"{folder}: is a part of a data set; name the folder of the whole, the one with "
            "tokenizer.json and client_*/"
        )
    _require(folder, manifest, _OF_THE_WHOLE)
    _require(folder, manifest["settings"], _OF_SETTINGS)
    return manifest


def read_part(folder: Path, *, is_counted: bool = False) -> dict[str, Any]:
    """The manifest of a part, which may come from a store: its shards lie in its folder.

    Args:
        is_counted: whether it must have how often each token comes.

    Raises:
        DataError: also where the folder is no part, or a shard's name leads out of it.
    """
    manifest = read_manifest(folder)
    _require(folder, manifest, {**_OF_A_PART, **(_COUNTS if is_counted else {})})
    for shard in manifest["shards"]:
        _require(folder, shard if isinstance(shard, dict) else {}, _OF_A_SHARD)
        if shard["file"] in ("", ".", "..") or "/" in shard["file"] or "\0" in shard["file"]:
            raise DataError(
                f"{folder / MANIFEST}: {shard['file']!r} is no name of a shard; prepare the data "
                "again"
            )
    return manifest


_OF_THE_WHOLE = {"settings": dict, "tokenizer": str, "digest": str}
_OF_SETTINGS = {"num_clients": int, "sequence_length": int, "vocab_size": int}
_OF_A_PART = {
    "dtype": str, "sequence_length": int, "rows": int, "tokens": int, "text_tokens": int,
    "shards": list,
}  # fmt: skip
_COUNTS = {"unigram": list}
_OF_A_SHARD = {"file": str, "rows": int, "bytes": int, "sha256": str}


def _require(folder: Path, found: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    for key, kind in kinds.items():
        if not isinstance(found.get(key), kind):
            raise DataError(
                f"{folder / MANIFEST}: has no {key}, so it is no manifest of this kind of folder; "
                "prepare the data again"
            )


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds a manifest of ours, and not just a file of that name."""
    path = folder / MANIFEST
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        return False
    try:
        return not {"digest", "shards"}.isdisjoint(read_manifest(folder))
    except DataError:
        return False


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a data folder, a part or a whole; see `read_part` and `read_whole`.

    Raises:
        DataError: the folder or its manifest is missing or unreadable.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = path if folder.is_dir() else folder
        raise DataError(f"{missing}: no prepared data here; run `photon prepare` first") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: unreadable manifest ({error}); prepare the data again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path}: not a manifest of format {FORMAT}; prepare the data again")
    return manifest
