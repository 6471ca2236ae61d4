"""Metrics on their way out: a JSON line per round, and what follows from those lines."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from photon.errors import RunFolderError, warn
from photon.files import new_file

Tracker = Callable[[Mapping[str, Any]], None]
"""Takes the record of one round (or of one interval of a centralised run)."""
_LOST = (
    "the model is whole and the run can go on, but its reports lack them: if there is a copy of "
    "this file, stop the run and put it back"
)


class JsonlTracker:
    """Appends records to a file; the file never runs ahead of the last commit for long.

    Args:
        path: the metrics file.
        key: the counter of a record, `round` or `step`.
        committed: value of that counter at the last commit; later lines are cut.
        kept: records that the commits hold; a line that a crash has torn is written anew from them.

    Attributes:
        last: the record that was written last.
    """

    def __init__(
        self, path: Path, key: str, committed: int, kept: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.path = path
        self.last: Mapping[str, Any] | None = None
        found, saved = parse(path), [record[key] for record in kept]
        if lost := lost_records(path, found, key, committed, saved):
            warn(lost)
        if lines := copy_lines(found.records, path, key, committed, kept):
            self.last = lines[-1]

    def __call__(self, record: Mapping[str, Any]) -> None:
        self.last = record
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(_line(record))

    def complete(self, more: Mapping[str, Any]) -> None:
        """Add to the record that was written last; without one there is nothing to add to."""
        *before, last = read_lines(self.path) or [{}]
        if last:
            self.last = {**last, **more}
            _write_lines(self.path, [*before, self.last])


def copy_lines(
    found: Sequence[dict[str, Any]],
    path: Path,
    key: str,
    committed: int,
    kept: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Put the records of a metrics file up to a commit in place of what is at `path`.

    Args:
        found: in that file.
        kept: records that belong there, in case that the file has lost them.
    """
    there = {line.get(key) for line in found}
    lines = [*found, *(dict(record) for record in kept if record[key] not in there)]
    upto = [line for line in lines if line.get(key, 0) <= committed]
    upto.sort(key=lambda line: line.get(key, 0))
    _write_lines(path, upto)
    return upto


def _write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    with new_file(path, durable=False) as file:
        file.write("".join(map(_line, records)).encode())


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(dict(record)) + "\n"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A metrics file, as it was when it was read.

    Attributes:
        records: without a line that a crash cut short, or that is none.
        strange: number, from 1, of the first line that is neither a record nor the beginning of
            one, which a crash may leave.
    """

    records: list[dict[str, Any]]
    strange: int | None


def parse(path: Path) -> Parsed:
    """Read a metrics file; one that is missing is empty."""
    records: list[dict[str, Any]] = []
    strange = None
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, 1):
        is_torn = line.startswith(b"{") and not line.endswith(b"\n")
        record = _record(line)
        if record is not None:
            records.append(record)
        elif strange is None and not is_torn:
            strange = number
    return Parsed(records, strange)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Records of a metrics file; see `Parsed`."""
    return parse(path).records


class Tail:
    """Reads a metrics file again and again, each time what is new in it.

    Args:
        path: of the file, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] | None = None
        self._end = 0

    def more(self) -> tuple[bool, Iterator[dict[str, Any]]]:
        """Whether the file is another one than before, and the records: all of another one, and
        the new ones of one that has grown. A line that is still being written is left for later.
        """
        found = self.path.stat() if self.path.exists() else None
        stamp = found and (found.st_ino, found.st_size, found.st_mtime_ns)
        before, self._stamp = self._stamp, stamp
        if stamp == before:
            return False, iter(())
        has_grown = stamp and before and stamp[0] == before[0] and stamp[1] > before[1]
        if not has_grown:
            self._end = 0
        return not has_grown, self._read() if stamp else iter(())

    def _read(self) -> Iterator[dict[str, Any]]:
        with open(self.path, "rb") as file:
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._end += len(line)
                if (record := _record(line)) is not None:
                    yield record


def newest_first(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a metrics file from the last one on, each of them parsed when it is asked for."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return filter(None, map(_record, reversed(lines)))


def lost_records(
    path: Path, found: Parsed, key: str, committed: int, kept: Collection[int]
) -> str | None:
    """What a metrics file has lost; None: nothing, or only what a crash may have torn.

    Args:
        path, found: the file, and what is in it.
        key: the counter of a record, `round` or `step`.
        committed: value of that counter at the last commit.
        kept: of the records that the commits hold, from which they are written anew.
    """
    why = [] if found.strange is None else [f"line {found.strange} is no record"]
    there = {record.get(key) for record in found.records}.union(kept)
    rounds = range(1, committed + 1) if key == "round" else ()
    if lost := [number for number in rounds if number not in there]:
        why.append(f"the records of {len(lost)} of {committed} rounds are lost")
    if not why and committed and not (path.exists() and path.stat().st_size):
        why.append("the records so far are lost")
    return f"{path}: {' and '.join(why)}; {_LOST}" if why else None


def _record(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError):
        if isinstance(record := json.loads(line.decode("utf-8", errors="replace")), dict):
            return record
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _are_by_client(value: Any) -> bool:
    return isinstance(value, dict) and all(key.isdecimal() for key in value)


_SHAPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(
        ("round", "rounds", "step", "steps", "tokens", "seconds", "tokens_per_second",
         "device_busy", "bytes_up", "bytes_down", "bytes_ddp", "train_loss", "val_loss",
         "val_perplexity", "val_bits_per_byte", "epsilon", "delta", "epsilon_of_updates"),
        ("a number", _is_number),
    ),
    **dict.fromkeys(("phase_seconds", "device_seconds"), ("numbers by name", _are_numbers)),
    **dict.fromkeys(
        ("client_norms", "client_cosines", "late"),
        ("numbers by client", lambda value: _are_by_client(value) and _are_numbers(value)),
    ),
    **dict.fromkeys(("refused", "missing", "quarantined"), ("by client", _are_by_client)),
    "client_metrics": (
        "numbers by client",
        lambda value: _are_by_client(value) and all(map(_are_numbers, value.values())),
    ),
    "accepted": (
        "a list of clients",
        lambda value: isinstance(value, list) and all(type(one) is int for one in value),
    ),
}  # fmt: skip
_BESIDE: Mapping[str, Collection[str]] = {
    "train_loss": ("seconds", "tokens_per_second"),
    "val_loss": ("val_perplexity", "val_bits_per_byte"),
    "bytes_up": ("bytes_down", "bytes_ddp"),
    "accepted": ("round",),
    "rounds": ("round",),
}
"""What a record has beside a field."""


def require_shape(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Refuse records that no Photon wrote, before somebody is told what they say.

    Args:
        path: of the file that they are from.

    Raises:
        RunFolderError: naming the file, the line and the field.
    """
    fault = next(filter(None, map(_fault, records)), None)
    if fault is not None:
        lines = enumerate(path.read_bytes().splitlines(), 1)
        number = next(n for n, line in lines if (one := _record(line)) and _fault(one) == fault)
        raise RunFolderError(
            f"{path}:{number}: {fault}; mend the line, remove it, or put the file back from a copy"
        )


def _fault(record: Mapping[str, Any]) -> str | None:
    """What is wrong with the fields of a record that is known to have a place."""
    for key, value in record.items():
        name, fits = _SHAPES.get(key, ("", bool))
        if name and not fits(value):
            return f"{key} is {_shortened(value)}, not {name}"
        for other in _BESIDE.get(key, ()):
            if other not in record:
                return f"there is no {other} beside {key}"
    return None


def _shortened(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:36]} ..."


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
        with new_file(self.path, durable=False) as file:
            file.write(json.dumps({"last": last}).encode())
