"""Runs as seen from outside: which there are, how far they are, who is at them."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from photon.errors import PhotonError, RunFolderError
from photon.runtime.run_folder import read_run
from photon.runtime.trackers import read_lines

State = Literal["running", "ended", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """How far a run is.

    Attributes:
        kind: federated, centralized, imported, or node (hosts clients for a server elsewhere).
        state: running while a process holds its folder; ended once it has a summary.
        done, total: rounds of a federated run, steps of any other.
        loss: of the last record, in nats; None before there is one.
        val_loss: the last that was measured.
        updated: when its metrics last changed, in seconds since the epoch.
    """

    run: str
    folder: str
    kind: str
    state: State
    done: int
    total: int
    tokens: int = 0
    loss: float | None = None
    val_loss: float | None = None
    updated: float = 0.0


def find_runs(root: Path) -> list[RunStatus]:
    """The runs directly below a folder, the newest last; folders that are no runs are left out."""
    found = []
    for path in root.glob("*/run.json"):
        try:
            found.append(run_status(path.parent))
        except PhotonError:
            continue
    return sorted(found, key=lambda status: (status.updated, status.run))


def run_status(folder: Path) -> RunStatus:
    """How far a run is.

    Raises:
        RunFolderError: no run there.
    """
    config, facts = read_run(folder)
    metrics = folder / "metrics.jsonl"
    lines = read_lines(metrics)
    last = lines[-1] if lines else {}
    by_round = facts["kind"] == "federated"
    total = config.fl.n_rounds if by_round else config.llm_config.max_duration
    return RunStatus(
        run=folder.name,
        folder=str(folder),
        kind=facts["kind"],
        state=_state(folder),
        done=last.get("round" if by_round else "step", 0),
        total=total or 0,
        tokens=last.get("tokens", 0),
        loss=last.get("train_loss"),
        val_loss=next((line["val_loss"] for line in reversed(lines) if "val_loss" in line), None),
        updated=(metrics if metrics.exists() else folder / "run.json").stat().st_mtime,
    )


def stop_run(folder: Path, wait_seconds: float) -> int:
    """Ask the process that runs a run to save and end, and wait until it has.

    Returns:
        Its process id.

    Raises:
        RunFolderError: no run there, nobody at it, or it has not ended in time.
    """
    read_run(folder)
    pid = holder(folder)
    if pid is None:
        raise RunFolderError(f"{folder}: is not running")
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + wait_seconds
    while holder(folder) is not None:
        if time.monotonic() > deadline:
            raise RunFolderError(
                f"{folder}: process {pid} was asked to stop {wait_seconds:.0f} s ago and is still "
                "saving; wait, or ask again"
            )
        time.sleep(0.1)
    return pid


def holder(folder: Path) -> int | None:
    """The process that holds a run's folder; None if nobody does."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        text = os.pread(descriptor, 32, 0)
        return int(text) if text.isdigit() else None
    finally:
        os.close(descriptor)


def _state(folder: Path) -> State:
    if holder(folder) is not None:
        return "running"
    return "ended" if (folder / "summary.json").exists() else "stopped"
