"""Metrics on their way out: a JSON line per round, and what follows from those lines."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Tracker = Callable[[Mapping[str, Any]], None]
"""Takes the record of one round (or of one interval of a centralised run)."""


class JsonlTracker:
    """Appends records to a file; the file never runs ahead of the last commit for long.

    Args:
        path: the metrics file.
        key: the counter of a record, `round` or `step`.
        committed: value of that counter at the last commit; later lines are cut.
    """

    def __init__(self, path: Path, key: str, committed: int) -> None:
        self.path = path
        copy_lines(path, path, key, committed)

    def __call__(self, record: Mapping[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(_line(record))


def copy_lines(source: Path, path: Path, key: str, committed: int) -> None:
    """The records of a metrics file up to a commit, in place of what is at `path`."""
    kept = [line for line in read_lines(source) if line.get(key, 0) <= committed]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(_line(record) for record in kept), encoding="utf-8")
    temporary.replace(path)


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(dict(record)) + "\n"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Records of a metrics file; a line that a crash cut short is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def to_all(trackers: Sequence[Tracker]) -> Tracker:
    """One tracker that hands its records to several."""

    def track(record: Mapping[str, Any]) -> None:
        for tracker in trackers:
            tracker(record)

    return track


def numbers(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of a record by name, `client_metrics/3/train_loss`; bools are 0 or 1."""
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            found[f"{prefix}{key}"] = float(value)
    return found


class Position:
    """How far a tracker outside of the run folder has come, so that it gets each record once.

    Args:
        home: folder that holds what the tracker wrote; without it, it begins from the start.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / "tracked.json"

    def read(self) -> int:
        """Round or step of the last record; -1: none."""
        try:
            return int(json.loads(self.path.read_text(encoding="utf-8"))["last"])
        except (OSError, ValueError, KeyError, TypeError):
            return -1

    def write(self, last: int) -> None:
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text(json.dumps({"last": last}), encoding="utf-8")
        temporary.replace(self.path)
