"""Workers that die, freeze or lose their parent: replaced or ended, and the run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from resuming import outcome, overrides

import photon
from forked import is_alive


def test_the_command_stops_with_workers_and_leaves_no_orphan(data_root, tmp_path):
    given = overrides(data_root, tmp_path, "photon.workers=2")
    given += ["llm_config.local_steps=1000000", "llm_config.save_interval=50"]
    run = tmp_path / "run"
    command = [sys.executable, "-m", "photon", "train", "--quiet", *given]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        workers = wait_for_workers(process.pid, 2)
        wait_until(lambda: len(list(run.rglob("train.json"))) == 2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"photon train --resume {run}" in errors
    lines = [line for line in errors.splitlines() if not line.startswith("photon: note: ")]
    assert len(lines) == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    facts = [json.loads(path.read_text())["facts"] for path in run.rglob("train.json")]
    saved = [one["state"]["steps_done"] for one in facts]
    assert len(saved) == 2
    assert all(steps >= 50 for steps in saved)


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within a minute"
        time.sleep(0.05)


def wait_for_workers(pid: int, count: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    wait_until(lambda: len(children.read_text().split()) >= count)
    return [int(child) for child in children.read_text().split()]


def test_workers_end_when_their_parent_is_killed_and_the_run_goes_on(
    data_root, tmp_path, uninterrupted
):
    given = overrides(data_root, tmp_path, "photon.workers=2", "llm_config.local_steps=5")
    process = subprocess.Popen([sys.executable, "-m", "photon", "train", *given])
    workers = wait_for_workers(process.pid, 2)
    metrics = tmp_path / "run/metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0)
    process.kill()
    process.wait()
    photon.resume(tmp_path / "run")
    assert outcome(tmp_path / "run")[0] == uninterrupted["moments averaged"][0]
    wait_until(lambda: not any(is_alive(pid) for pid in workers))


def test_a_killed_worker_is_replaced(data_root, tmp_path, uninterrupted, monkeypatch):
    from photon.node import engine as local

    hand_out = local.WorkerPool._hand_out
    kills = iter([1, 3])
    due, count = next(kills), 0

    def hand_out_and_kill(pool, *args):
        nonlocal due, count
        hand_out(pool, *args)
        busy = [w for w in pool.workers if w.client is not None]
        if busy:
            count += 1
            if count == due:
                due = next(kills, 0)
                busy[0].process.kill()

    monkeypatch.setattr(local.WorkerPool, "_hand_out", hand_out_and_kill)
    photon.train(overrides(data_root, tmp_path, "photon.workers=1"))
    assert outcome(tmp_path / "run") == uninterrupted["moments averaged"]


def test_a_client_that_keeps_killing_its_worker_fails_the_round(data_root, tmp_path, monkeypatch):
    from photon.errors import RoundFailed
    from photon.node import engine as local

    hand_out = local.WorkerPool._hand_out

    def hand_out_and_kill(pool, *args):
        hand_out(pool, *args)
        for worker in pool.workers:
            if worker.client == 1:
                worker.process.kill()

    monkeypatch.setattr(local.WorkerPool, "_hand_out", hand_out_and_kill)
    with pytest.raises(RoundFailed, match="client 1 died 3 times"):
        photon.train(overrides(data_root, tmp_path, "photon.workers=1"))


def test_a_silent_worker_is_replaced(data_root, tmp_path, uninterrupted, monkeypatch):
    """Frozen, not dead: it is killed after the timeout, and its client goes on elsewhere."""
    from photon.node import engine as local

    hand_out = local.WorkerPool._hand_out
    frozen = []

    def hand_out_and_freeze(pool, *args):
        hand_out(pool, *args)
        busy = [w for w in pool.workers if w.client is not None]
        if busy and not frozen:
            frozen.append(busy[0].process.pid)
            os.kill(frozen[0], signal.SIGSTOP)

    monkeypatch.setattr(local.WorkerPool, "_hand_out", hand_out_and_freeze)
    photon.train(overrides(data_root, tmp_path, "photon.workers=1", "photon.worker_timeout=8"))
    assert outcome(tmp_path / "run") == uninterrupted["moments averaged"]
    assert not Path(f"/proc/{frozen[0]}").exists()
