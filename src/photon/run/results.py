"""What a run achieved, as values and as `summary.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from photon.data.manifest import write_json
from photon.errors import RunFolderError
from photon.run.trackers import numbers


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


class History(list[dict[str, Any]]):
    """Records of a run, one for each round or interval, as `metrics.jsonl` has them."""

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`: a row for each record, a column for each number in it.

        A number in a mapping has its path as name: `client_metrics/3/train_loss`.

        Raises:
            ImportError: there is no pandas here.
        """
        try:
            import pandas  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                "result.history.to_pandas() needs pandas: pip install pandas"
            ) from error
        return pandas.DataFrame([numbers(record) for record in self])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run achieved; `summary.json` holds the same fields, but for `history`.

    Attributes:
        folder: the run folder.
        federated, centralized, alone: null where it was not trained.
        unigram: a model that knows token frequencies only; the floor.
        bytes_up, bytes_down: payload bytes of the federated run, both directions.
        bytes_ddp: what data-parallel training would have sent (bf16, ring all-reduce).
        simulated: of `photon simulate`: utilization, goodput, and where the devices' time went.
        history: the run's records in order.
    """

    run: str
    folder: Path
    parameters: int
    rounds: int
    unigram: Score | None
    federated: Score | None = None
    centralized: Score | None = None
    alone: Score | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    bytes_ddp: int = 0
    simulated: dict[str, Any] | None = None
    history: History = field(default_factory=History, repr=False)


def summary_of(result: TrainResult) -> dict[str, Any]:
    """The result as `summary.json` has it; its history is in `metrics.jsonl`."""
    plain = {**asdict(result), "folder": str(result.folder)}
    del plain["history"]
    return plain


def write_summary(path: Path, result: TrainResult) -> None:
    """Write `summary.json` into a run folder."""
    write_json(path / "summary.json", summary_of(result))


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of a finished run.

    Raises:
        RunFolderError: the run has none yet.
    """
    try:
        return json.loads((path / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFolderError(f"{path}: has no summary.json; the run has not ended") from error
