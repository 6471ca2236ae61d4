"""Runs as seen from outside: which there are, how far they are, who is at them."""

from __future__ import annotations

import errno
import json
import os
import signal
import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from photon.errors import PhotonError, RunFolderError, warn
from photon.run.kinds import CENTRALIZED, ELSEWHERE, FEDERATED, IMPORTED, NODE
from photon.run.live import Live, read_live
from photon.run.run_folder import (
    held_by,
    is_held,
    list_checkpoints,
    number_of,
    read_facts,
    read_run,
    why_not_to_stop,
)
from photon.run.trackers import Parsed, Tail, lost_records, newest_first, parse, require_shape

RUNS = Path("runs")
"""Where runs are looked for by name; the default of photon.saving_path."""
METRICS = "metrics.jsonl"
ROUNDS_LOOKED_AT = 5
"""A round is expected to take what so many took, the median of them."""
State = Literal["running", "ended", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """How far a run is.

    Attributes:
        kind: federated, centralized, imported, or node (hosts clients for a server elsewhere).
        state: running while a process holds its folder; ended once all is done and summed up, or
            from the beginning if it was imported.
        by_round: whether a federated run is as long as its rounds; an asynchronous one is not.
        done, total: rounds or steps; none of a node, whose server alone knows them.
        loss: of the last record, in nats; None where it has none.
        val_loss: the last that was measured.
        updated: when its metrics last changed, in seconds since the epoch.
    """

    run: str
    folder: str
    kind: str
    state: State
    done: int
    total: int
    by_round: bool = True
    tokens: int = 0
    loss: float | None = None
    val_loss: float | None = None
    updated: float = 0.0

    @property
    def place(self) -> str:
        """How far it is, in words."""
        unit = "round" if self.by_round and self.kind == "federated" else "step"
        return f"{unit} {self.done} of {self.total}"


def run_named(given: Path) -> Path:
    """A run, or something in one, by its path, or by its name as `photon runs` lists it.

    Raises:
        RunFolderError: the name is longer than a file's can be.
    """
    try:
        given.stat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise RunFolderError(
                f"{str(given)[:40]}...: no run here, nor can one have so long a name; "
                "`photon runs` lists those there are"
            ) from None
    below = RUNS / given
    return below if not os.path.exists(given) and os.path.exists(below) else given


def find_runs(root: Path) -> list[RunStatus]:
    """The runs directly below a folder, the newest last.

    Folders that are no runs are left out; a run that cannot be read is left out with a warning.
    """
    found = []
    for path in root.glob("*/run.json"):
        try:
            found.append(run_status(path.parent))
        except PhotonError as error:
            warn(f"left out: {error}")
    return sorted(found, key=lambda status: (status.updated, status.run))


def run_status(folder: Path) -> RunStatus:
    """How far a run is.

    Raises:
        RunFolderError: no run there.
    """
    return _status(folder, newest_first(folder / METRICS))


def _status(folder: Path, newest: Iterator[Mapping[str, Any]]) -> RunStatus:
    """Args:
    newest: its records from the last one on, of which no more are read than is needed.
    """
    config, facts = read_run(folder)
    metrics = folder / METRICS
    last = next(newest, {})
    evaluated = next((one for one in chain([last], newest) if "val_loss" in one), {})
    require_shape(metrics, [last, evaluated])
    is_federated = facts["kind"] == "federated"
    by_round = is_federated and not config.federation.is_async
    done = last.get("round" if by_round else "step", 0)
    total = 0 if facts["kind"] == NODE else config.length(is_federated)
    if by_round or not is_federated:  # the records may be lost
        done = max(done, *commits(folder), 0)
    return RunStatus(
        run=Path(os.path.abspath(folder)).name,
        folder=str(folder),
        kind=facts["kind"],
        state=_state(folder, facts["kind"], done >= total or "budget_spent" in last),
        done=done,
        total=total,
        by_round=by_round,
        tokens=last.get("tokens", 0),
        loss=last.get("train_loss"),
        val_loss=evaluated.get("val_loss"),
        updated=(metrics if metrics.exists() else folder / "run.json").stat().st_mtime,
    )


def commits(folder: Path) -> list[int]:
    """Rounds or steps of the checkpoints of a run, in ascending order."""
    return [number_of(path) for path in list_checkpoints(folder / "checkpoints")]


def damage(folder: Path, metrics: Parsed | None = None) -> list[str]:
    """What a run that nobody is at has lost of its history: a line for each file.

    Args:
        metrics: what is in its metrics file; None: it is read for this.

    Raises:
        CorruptCheckpoint: run.json is unreadable.
    """
    kind, saved = read_facts(folder)["kind"], commits(folder)
    if kind not in (FEDERATED, CENTRALIZED) or not saved or is_held(folder):
        return []
    key = "round" if kind == FEDERATED else "step"
    path = folder / METRICS
    lost = lost_records(path, metrics or parse(path), key, saved[-1], saved)
    return [one for one in (lost, _lost_chain(folder)) if one is not None]


def _lost_chain(folder: Path) -> str | None:
    """Whether the newest checkpoint is of a chain, which is not there."""
    path = folder / "chain.jsonl"
    if path.exists() and path.stat().st_size:
        return None
    with suppress(OSError, ValueError):
        manifest = json.loads(list_checkpoints(folder / "checkpoints")[-1].read_bytes())
        facts = manifest.get("facts") if isinstance(manifest, dict) else None
        if isinstance(facts, dict) and facts.get("link"):
            return (
                f"{path}: the run's history is lost, as `photon verify` will say; the run can go "
                "on, but put a copy of this file back before it does, if there is one"
            )
    return None


@dataclass(frozen=True, slots=True)
class Look:
    """A run as it is at one moment.

    Attributes:
        record: the last one; None before there is any.
        seconds_left: until it has ended, if it goes on as it went; None if that is not known.
    """

    status: RunStatus
    live: Live
    record: Mapping[str, Any] | None
    seconds_left: float | None


class Onlooker:
    """Looks at a run again and again, without reading again what has not changed.

    The run may be this very process, which has other things to do; of a long run it keeps no more
    records than it shows.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tail = Tail(folder / METRICS)
        self._recent: deque[dict[str, Any]] = deque(maxlen=ROUNDS_LOOKED_AT)
        self._evaluated: dict[str, Any] | None = None

    def look(self) -> Look:
        """Raises:
        RunFolderError: no run there.
        """
        is_another, records = self._tail.more()
        if is_another:
            self._recent.clear()
            self._evaluated = None
        for record in records:
            self._recent.append(record)
            if "val_loss" in record:
                self._evaluated = record
        older = () if self._evaluated is None else (self._evaluated,)
        return _look(self.folder, chain(reversed(self._recent), older))


def look_at(folder: Path) -> Look:
    """A run as it is now.

    Raises:
        RunFolderError: no run there.
    """
    return _look(folder, newest_first(folder / METRICS))


def _look(folder: Path, newest: Iterator[Mapping[str, Any]]) -> Look:
    recent = list(islice(newest, ROUNDS_LOOKED_AT))
    status, live = _status(folder, chain(recent, newest)), read_live(folder)
    left = seconds_left(status, live, recent[::-1])
    return Look(status, live, recent[0] if recent else None, left)


def seconds_left(
    status: RunStatus, live: Live, records: Sequence[Mapping[str, Any]]
) -> float | None:
    """Seconds until the run has ended, if it goes on as it went; None if that is not known."""
    if status.kind != "federated":
        if not (live.step is not None and live.steps and live.tokens_per_second and status.done):
            return None
        tokens = status.tokens / status.done
        return (live.steps - live.step) * tokens / live.tokens_per_second
    if not status.by_round:
        each = _step_seconds(records)
        return None if each is None else max(0, status.total - status.done) * each
    each = _round_seconds(records)
    if each is None:
        return None
    open_for = live.phase_seconds if live.phase == "train" else 0.0
    return max(0.0, (status.total - status.done) * each - min(open_for, each))


def seconds_to_go(records: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds from the last of these records to the end of its run; None if that is not known."""
    last = records[-1]
    if "rounds" in last:
        each = _round_seconds(records)
        return None if each is None else (last["rounds"] - last["round"]) * each
    if "round" in last:
        each = _step_seconds(records)
        return None if each is None else max(0, last["steps"] - last["step"]) * each
    if not (last["step"] and last.get("tokens_per_second")):
        return None
    tokens = last["tokens"] / last["step"]
    return (last["steps"] - last["step"]) * tokens / last["tokens_per_second"]


def _round_seconds(records: Sequence[Mapping[str, Any]]) -> float | None:
    last = list(records)[-ROUNDS_LOOKED_AT:]
    took = [_without_first_wait(r) for r in last if "phase_seconds" in r]
    return statistics.median(took) if took else None


def _without_first_wait(record: Mapping[str, Any]) -> float:
    """Seconds of a round; until nodes have come for the first time, one waits once."""
    phases = record["phase_seconds"]
    return sum(phases.values()) - (phases.get("wait", 0.0) if record.get("round") == 1 else 0.0)


def _step_seconds(records: Sequence[Mapping[str, Any]]) -> float | None:
    """Of an asynchronous run, whose merges differ in their tokens: over these, of which the first
    begins the run or tells where the others begin.
    """
    timed = [record for record in records if "phase_seconds" in record]
    if not timed:
        return None
    first = timed.pop(0) if timed[0]["round"] > 1 else {"step": 0}
    took = sum(sum(record["phase_seconds"].values()) for record in timed)
    steps = timed[-1]["step"] - first["step"] if timed else 0
    return took / steps if took and steps else None


def follow(folder: Path, interval: float) -> Iterator[dict[str, Any]]:
    """Records of a run, those there are and each new one, until no process is at it.

    Args:
        interval: seconds between two looks.

    Raises:
        RunFolderError: no run there, or a node's folder, which gets none; a record that no Photon
            wrote.
    """
    require_records(folder)
    tail, seen = Tail(folder / METRICS), 0
    while True:
        was_running = is_held(folder)
        is_another, records = tail.more()
        count = 0 if is_another else seen
        for record in records:
            count += 1
            if count > seen:
                require_shape(folder / METRICS, [record])
                yield record
        seen = count  # fewer than before: resumed from an earlier commit
        if not was_running:
            return
        time.sleep(interval)


def require_records(folder: Path) -> None:
    """Raises:
    RunFolderError: no run there, or what a node keeps of one.
    """
    _, facts = read_run(folder)
    if facts["kind"] == NODE:
        raise RunFolderError(
            f"{folder}: {ELSEWHERE}, which has the run's records; look at it there, and at this "
            "node in what it prints"
        )


def stop_run(folder: Path, wait_seconds: float) -> int:
    """Ask the process that runs a run to save and end, and wait until it has.

    Returns:
        Its process id.

    Raises:
        RunFolderError: no run there, nobody at it or nobody who can be signalled from here, or it
            has not ended in time.
    """
    read_run(folder)
    held, owner = held_by(folder)
    if not held:
        raise RunFolderError(f"{folder}: is not running")
    if (reason := why_not_to_stop(folder, owner)) or owner is None:
        raise RunFolderError(reason)
    try:
        os.kill(owner.pid, signal.SIGTERM)
    except ProcessLookupError:
        raise RunFolderError(f"{folder}: process {owner.pid} has just ended") from None
    except PermissionError:
        raise RunFolderError(
            f"{folder}: process {owner.pid} is another user's, who may stop it"
        ) from None
    deadline = time.monotonic() + wait_seconds
    while held_by(folder) == (True, owner):
        if time.monotonic() > deadline:
            raise RunFolderError(
                f"{folder}: process {owner.pid} was asked to stop {wait_seconds:.0f} s ago and is "
                "still saving; wait, or ask again"
            )
        time.sleep(0.1)
    return owner.pid


def _state(folder: Path, kind: str, is_done: bool) -> State:
    """A run that was ended and then made longer has a summary, of what it was."""
    if is_held(folder):
        return "running"
    ended = (is_done and (folder / "summary.json").exists()) or kind == IMPORTED
    return "ended" if ended else "stopped"
