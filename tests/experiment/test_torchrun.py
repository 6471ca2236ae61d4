"""`photon train --centralized` under torchrun: two real processes and their folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import photon
from photon.run import checkpoint
from photon.run.trackers import read_lines

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
          "-m", "photon"]  # fmt: skip
STEPS = 12


def arguments(data_root: Path, saving_path: Path, *more: str) -> list[str]:
    return ["recipe=smoke", f"dataset.train.root_local={data_root}", "llm_config.max_duration=12",
            f"photon.saving_path={saving_path}", "llm_config.optimizer.name=adamw",
            "llm_config.save_interval=3", "llm_config.eval_interval=6", *more]  # fmt: skip


def launch(*arguments: str, cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*LAUNCH, *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def final(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_parameters(checkpoint.newest_checkpoint(run / "checkpoints"))


def test_two_processes_stopped_and_resumed_are_one(data_root, tmp_path):
    """Sharded, stopped by a signal after the first save, resumed: the run of one process."""
    config = arguments(data_root, tmp_path / "runs", "run_uuid=two")
    job = launch("train", "--centralized", *config, cwd=tmp_path)
    run = tmp_path / "runs" / "two"
    deadline = time.monotonic() + 120
    while not list(run.glob("checkpoints/step_*.json")) and job.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    job.send_signal(signal.SIGTERM)
    output, errors = job.communicate(timeout=120)
    stopped = not (run / "summary.json").exists()
    if stopped:
        assert errors.count("go on with: photon train --resume") == 1, "the first process speaks"
        job = launch("train", "--resume", str(run), "--json", cwd=tmp_path)
        output, errors = job.communicate(timeout=120)
        assert job.returncode == 0, errors
        assert json.loads(output)["centralized"]["steps"] == STEPS
    config = arguments(data_root, tmp_path / "runs", "run_uuid=one")
    one = photon.train(config, centralized=True)
    assert stopped, "the run ended before the signal: make it longer"
    for name, value in final(Path(one.folder)).items():
        torch.testing.assert_close(final(run)[name], value, rtol=1e-4, atol=1e-5)
    kept = [line["val_loss"] for line in read_lines(run / "metrics.jsonl") if "val_loss" in line]
    whole = read_lines(Path(one.folder) / "metrics.jsonl")
    expected = [line["val_loss"] for line in whole if "val_loss" in line]
    assert kept == pytest.approx(expected, rel=1e-5)


def test_a_federated_run_under_torchrun_is_refused_once(data_root, tmp_path):
    job = launch("train", *arguments(data_root, tmp_path / "runs"), cwd=tmp_path)
    _, errors = job.communicate(timeout=120)
    assert job.returncode != 0
    assert errors.count("photon: torchrun starts centralised runs") == 1
