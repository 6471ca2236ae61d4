"""Settings of runs that are compared, and what is read of them when they have ended."""

from __future__ import annotations

from pathlib import Path

import torch

from photon.container.container import digest
from photon.run.checkpoint import load_client_state, load_parameters, newest_checkpoint
from photon.run.trackers import read_lines

PLAIN = ["fl.compression=fp32", "fl.strategy_name=fedavg", "fl.n_rounds=2"]
KEPT = "fl.aggregate_momenta=false"


def last(result) -> dict[str, torch.Tensor]:
    return load_parameters(newest_checkpoint(Path(result.folder) / "checkpoints"))


def records(result) -> list[dict]:
    return read_lines(Path(result.folder) / "metrics.jsonl")


def state_of(result, client: int):
    homes = Path(result.folder) / f"clients/client_{client}"
    return load_client_state(sorted(homes.glob("round_*.json"))[-1])


def same(left, right) -> bool:
    return digest(left) == digest(right)
