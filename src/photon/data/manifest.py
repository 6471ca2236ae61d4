"""The JSON manifests of prepared data: of each part, a folder of shards, and of the whole set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from photon.errors import DataError
from photon.files import new_file

MANIFEST = "manifest.json"
FORMAT = 1


def clients_of(manifest: dict[str, Any]) -> range:
    """Numbers of the clients that a data set was prepared for."""
    settings = manifest["settings"]
    first = settings.get("first_client", 0)
    return range(first, first + settings["num_clients"])


def part_digest(manifest: Mapping[str, Any]) -> str:
    """Hex digest of a part's shards, by which the manifest of the whole knows the part."""
    return _digest(manifest["shards"])


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


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a data folder.

    Raises:
        DataError: the folder or its manifest is missing or unreadable.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        missing = folder if not folder.exists() else path
        raise DataError(f"{missing}: no prepared data here; run `photon prepare` first") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: unreadable manifest ({error}); prepare the data again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path}: not a manifest of format {FORMAT}; prepare the data again")
    return manifest
