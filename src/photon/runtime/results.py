"""What a run achieved, as values and as `summary.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from photon.config.schema import Config
from photon.data.shards import write_json
from photon.errors import RunFolderError
from photon.evaluation.loss import LossReport, bytes_per_token, unigram_loss
from photon.runtime.rows import VALIDATION, open_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Result of one way of training, on the common validation set.

    Attributes:
        val_loss: nats per token.
        tokens, steps: trained on, optimizer steps in sequence; 0 for the unigram model.
        seconds: training time, validation not counted.
    """

    val_loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    learning_rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run achieved; `summary.json` holds the same fields.

    Attributes:
        folder: the run folder.
        federated, centralized, alone: null where it was not trained.
        unigram: a model that knows token frequencies only; the floor.
        bytes_up, bytes_down: payload bytes of the federated run, both directions.
        bytes_ddp: what data-parallel training would have sent (bf16, ring all-reduce).
    """

    run: str
    folder: str
    parameters: int
    rounds: int
    unigram: Score | None
    federated: Score | None = None
    centralized: Score | None = None
    alone: Score | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    bytes_ddp: int = 0


def unigram_score(config: Config) -> Score:
    """The floor: token frequencies of all clients' training text, scored on the common set."""
    clients = range(config.fl.n_total_clients)
    train_rows = [open_rows(config, f"client_{client}/train") for client in clients]
    validation = open_rows(config, VALIDATION)
    loss = unigram_loss(train_rows, validation)
    report = LossReport(loss, 0.0, 0, bytes_per_token(validation))
    return Score(val_loss=loss, perplexity=report.perplexity, bits_per_byte=report.bits_per_byte)


def write_summary(path: Path, result: TrainResult) -> None:
    """Write `summary.json` into a run folder."""
    write_json(path / "summary.json", asdict(result))


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of a finished run.

    Raises:
        RunFolderError: the run has none yet.
    """
    try:
        return json.loads((path / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFolderError(f"{path}: has no summary.json; the run has not ended") from error
