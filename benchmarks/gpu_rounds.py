"""A federated run on one device: seconds of a round against those of its bare steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from gpu_steps import ROWS, TINY
from round import MOMENTS

from photon.config import load_config
from photon.config.dataset import EmbeddedCorpus
from photon.data.prepare.embedded import prepare_embedded
from photon.experiment import experiment

PRESET, CLIENTS = "mpt-125m", 8


@dataclass(frozen=True)
class Case:
    """A run; its first round, which compiles, is not counted.

    Attributes:
        moments: what becomes of them, of `round.MOMENTS`.
        rounds: that are counted.
    """

    moments: str
    local_steps: int
    rounds: int

    @property
    def name(self) -> str:
        return f"{self.moments} moments, {self.local_steps} local steps"


def cases(smoke: bool) -> list[Case]:
    if smoke:
        return [Case("averaged", 2, 1), Case("reset", 2, 1)]
    return [Case(m, n, r) for n, r in ((16, 2), (64, 1)) for m in ("averaged", "reset")]


def data(folder: Path, smoke: bool) -> Path:
    """The embedded corpus, made on the spot for all the clients."""
    corpus = EmbeddedCorpus(vocab_size=300, max_bytes=2_000_000 if smoke else 8_000_000)
    prepare_embedded(folder, corpus, CLIENTS, 32 if smoke else 2048)
    return folder


def keys(case: Case, home: Path, rows: Path, device: torch.device, smoke: bool) -> Iterator[str]:
    batch = 2 if smoke else ROWS[PRESET]
    yield from (f"llm_config={PRESET}", *MOMENTS[case.moments], f"photon.device={device}",
                f"photon.saving_path={home}", f"run_uuid={case.moments}-{case.local_steps}",
                "photon.workers=0", f"fl.n_total_clients={CLIENTS}", "fl.eval_period=null",
                "llm_config.eval_subset_num_batches=1", f"fl.n_rounds={case.rounds + 1}",
                f"dataset.train.root_local={rows}",
                f"llm_config.local_steps={case.local_steps}ba",
                f"llm_config.global_train_batch_size={batch}",
                f"llm_config.device_train_microbatch_size={batch}",
                "llm_config.scheduler.schedulers.lr.t_warmup=1ba",
                "llm_config.fsdp_config.activation_checkpointing=false")  # fmt: skip
    if smoke:
        yield from (f"llm_config.{key}" for key in TINY)


def measure(
    case: Case, home: Path, rows: Path, device: torch.device, smoke: bool, step: float | None
) -> dict[str, Any]:
    """A real run; whatever its tracker is told is kept.

    Args:
        home: a folder for the run.
        step: seconds of a bare step of the same rows, where that was measured.
    """
    records: list[Mapping[str, Any]] = []
    commits: list[float] = []

    def track(record: Mapping[str, Any]) -> None:
        records.append(record)
        commits.append(time.perf_counter())

    config = load_config(list(keys(case, home, rows, device, smoke)))
    experiment.train(config, say=lambda line: None, console=lambda folder, label: track)
    return figures(case, records, commits, step)


def figures(
    case: Case, records: list[Mapping[str, Any]], commits: list[float], step: float | None
) -> dict[str, Any]:
    """Numbers of the rounds after the first, from commit to commit without the validation.

    `busy_by_step` is the time that the bare steps of all clients would take over that of a round;
    `device_busy`, `device_seconds`: the run's own, if it says them, as means.
    """
    walls = [
        after - before - record["phase_seconds"]["validate"]
        for (before, after), record in zip(pairwise(commits), records[1:], strict=True)
    ]
    seconds = statistics.fmean(walls)
    steps = CLIENTS * case.local_steps
    tokens = records[-1]["tokens"] - records[0]["tokens"]
    return {
        **asdict(case),
        "preset": PRESET,
        "clients": CLIENTS,
        "round_seconds": seconds,
        "training_seconds": mean_of(records[1:], "seconds"),
        "tokens": tokens // len(walls),
        "tokens_per_second": tokens / sum(walls),
        "step_seconds": step,
        "busy_by_step": None if step is None else steps * step / seconds,
        "device_busy": mean_of(records[1:], "device_busy"),
        "device_seconds": mean_of(records[1:], "device_seconds"),
    }


def mean_of(records: list[Mapping[str, Any]], key: str) -> float | None:
    found = [value for record in records if isinstance(value := record.get(key), (int, float))]
    return statistics.fmean(found) if found else None
