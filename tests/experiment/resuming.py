"""Runs to be stopped and gone on with: how they are begun, killed and compared."""

from __future__ import annotations

import signal
from pathlib import Path

import crash

from forked import Forked
from photon.container.container import digest
from photon.run import checkpoint
from photon.run.trackers import read_lines
from photon.training import loop

SHAPE = ["fl.n_rounds=4", "llm_config.local_steps=5", "llm_config.save_interval=2",
         "llm_config.eval_interval=7", "llm_config.max_duration=20"]  # fmt: skip


def overrides(data_root: Path, saving: Path, *more: str) -> list[str]:
    return ["recipe=smoke", f"dataset.train.root_local={data_root}",
            f"photon.saving_path={saving}", "run_uuid=run", *SHAPE, *more]  # fmt: skip


MACHINE = {
    "client_metrics",
    "device_busy",
    "mean_metrics",
    "peak_memory",
    "bytes_up",
    "bytes_by_kind",
    "client_bytes",
}


def outcome(run: Path) -> tuple[str, list[dict]]:
    """Digest of the final parameters, and the metrics without times and memory."""
    newest = checkpoint.newest_checkpoint(run / "checkpoints")
    lines = [
        {k: v for k, v in line.items() if "second" not in k and k not in MACHINE}
        for line in read_lines(run / "metrics.jsonl")
    ]
    return digest(checkpoint.load_parameters(newest)), lines


VARIANTS = {
    "moments averaged": [],
    "moments kept": ["fl.aggregate_momenta=false", "llm_config.optimizer.name=adamw"],
    "centralized": [],
}


def train_until_killed(moment: str, count: int, kind: str, given: list[str], log: Path) -> None:
    killed = Forked(crash.train, moment, count, kind, given, log=log)
    assert killed.wait() == -signal.SIGKILL, log.read_text()


def steps_taken(monkeypatch) -> list[int]:
    taken: list[int] = []
    factor = loop.lr_factor

    def counted(schedule, number):
        taken.append(number)
        return factor(schedule, number)

    monkeypatch.setattr(loop, "lr_factor", counted)
    return taken
