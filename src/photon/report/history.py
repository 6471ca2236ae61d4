"""What a page is made of: a run folder, read once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from photon.errors import RunFolderError, warn
from photon.hub.scored import all_results
from photon.run.listing import METRICS, RunStatus, damage, require_records, run_status
from photon.run.live import read_facts
from photon.run.run_folder import read_run
from photon.run.trackers import parse, read_lines, require_shape

Record = Mapping[str, Any]
AXES = {"tokens": "tokens", "steps": "optimizer steps", "bytes": "bytes sent", "time": "seconds"}
"""What losses are drawn against."""
FLOOR = ("val_loss", "bits_per_byte")
"""Of the unigram model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Records of one way of training, in order.

    Attributes:
        name: of the run, or of a baseline in it.
    """

    name: str
    records: Sequence[Record]

    @property
    def is_federated(self) -> bool:
        """Whether records are rounds, not intervals of steps."""
        return bool(self.records) and "round" in self.records[-1]

    def axis(self, name: str) -> list[float]:
        """Where each record lies on an axis of `AXES`."""
        if name == "tokens":
            return [record["tokens"] for record in self.records]
        if name == "steps":
            return [record["step"] for record in self.records]
        return list(accumulate(map(_sent if name == "bytes" else _seconds, self.records)))

    def having(self, key: str) -> list[int]:
        """Indices of the records that have a finite number under a key."""
        return [i for i, record in enumerate(self.records) if _is_number(record.get(key))]

    def last(self, key: str) -> float | None:
        """The last finite number under a key."""
        chosen = self.having(key)
        return float(self.records[chosen[-1]][key]) if chosen else None

    def total(self, key: str) -> float:
        """The sum of the numbers under a key."""
        return sum(record.get(key, 0) for record in self.records)

    @property
    def rounds(self) -> list[Record]:
        """Records of rounds in which something was trained."""
        return [record for record in self.records if "accepted" in record]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHistory:
    """A run as its folder has it.

    Attributes:
        curve: its own.
        baselines: trained beside it, `centralized` and `alone`.
        status: how far it was when the folder was read.
        unigram: val_loss and more of token frequencies alone; None where they are not known.
        config: key -> value, resolved.
        facts: run.json.
        evaluations: name of what was scored -> results.json.
    """

    name: str
    curve: Curve
    baselines: Mapping[str, Curve]
    config: dict[str, Any]
    facts: dict[str, Any]
    evaluations: dict[str, dict[str, Any]]
    status: RunStatus
    unigram: Record | None = None

    @property
    def curves(self) -> list[Curve]:
        return [self.curve, *self.baselines.values()]


def read_histories(folders: Sequence[Path]) -> list[RunHistory]:
    """Read run folders, each under a name that no other one has; errors as `read_history`."""
    names = [folder.resolve().name for folder in folders]
    times = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [
        read_history(folder, name if count == 1 else f"{name} ({count})")
        for folder, name, count in zip(folders, names, times, strict=True)
    ]


def read_history(folder: Path, name: str | None = None) -> RunHistory:
    """Read a run folder.

    Args:
        name: what the page calls the run; None: as the folder is called.

    Raises:
        RunFolderError: no run there, one without a record, or one with a record that no Photon
            wrote.
    """
    require_records(folder)
    config, facts = read_run(folder)
    name = name or folder.resolve().name
    metrics = parse(folder / METRICS)
    records = _placed(folder / METRICS, metrics.records)
    lost = damage(folder, metrics)
    if not records:
        why = lost[0] if lost else f"{folder}: has no record yet"
        raise RunFolderError(f"{why}; a report needs a round or an interval")
    for line in lost:
        warn(line)
    baselines = sorted(folder.glob("baselines/*/metrics.jsonl"))
    return RunHistory(
        name=name,
        curve=Curve(name=name, records=records),
        baselines={
            (label := path.parent.name): Curve(name=f"{name}: {label}", records=own)
            for path in baselines
            if (own := _placed(path, read_lines(path)))
        },
        config=config.values_by_key(),
        facts=facts,
        status=run_status(folder),
        unigram=_unigram(folder, facts),
        evaluations={
            f"{name} {of.as_posix()}": results for of, results in all_results(folder).items()
        },
    )


def _placed(path: Path, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of a file that say where they lie."""
    found = [one for one in lines if all(_is_number(one.get(k)) for k in ("step", "tokens"))]
    if len(found) < len(lines):
        text = f"{path}: {len(lines) - len(found)} records without step or tokens are left out"
        warn(text)
    require_shape(path, found)
    return found


def _unigram(folder: Path, facts: Mapping[str, Any]) -> Record | None:
    """Run folders of before it was written down at the start have it once they have ended."""
    path = folder / "run.json"
    if "unigram" not in facts:
        path = folder / "summary.json"
        if not path.exists():
            return None
        facts = read_facts(path)
    found = facts.get("unigram", "nothing")
    if found is None or (isinstance(found, dict) and all(_is_number(found.get(k)) for k in FLOOR)):
        return found
    text = f"{path}: is damaged, the unigram model's loss is left out; put it back from a copy"
    warn(text)
    return None


def differing_keys(histories: Sequence[RunHistory]) -> dict[str, list[Any]]:
    """Keys whose values differ between the runs -> the value in each; None where it is missing."""
    keys = sorted({key for history in histories for key in history.config})
    values = {key: [history.config.get(key) for history in histories] for key in keys}
    return {key: found for key, found in values.items() if any(v != found[0] for v in found)}


def _sent(record: Record) -> float:
    return record.get("bytes_up", 0) + record.get("bytes_down", 0)


def _seconds(record: Record) -> float:
    return record.get("seconds", 0.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
