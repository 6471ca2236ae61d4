"""TensorBoard: the run's numbers as scalars, in RUN/tensorboard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from photon.run.trackers import Position, numbers, read_lines

FOLDER = "tensorboard"


class TensorboardTracker:
    """Writes event files that always say what metrics.jsonl says.

    Args:
        run: the run folder; its metrics.jsonl ends with the last commit.
        key: the counter of a record, `round` or `step`.
        committed: value of that counter at the last commit. What lies beyond is taken back, what
            a crash kept from the disk is written again.
        flush_interval: records between two writes to the disk.
    """

    def __init__(self, run: Path, key: str, committed: int, flush_interval: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._key, self._flush_interval = key, flush_interval
        self._position = Position(run / FOLDER)
        self._last = min(self._position.read(), committed)
        self._waiting = 0
        self._writer = SummaryWriter(str(run / FOLDER), purge_step=self._last + 1)
        for record in read_lines(run / "metrics.jsonl"):
            self(record)

    def __call__(self, record: Mapping[str, Any]) -> None:
        step = record.get(self._key, 0)
        if step <= self._last:
            return
        for name, value in numbers(record).items():
            self._writer.add_scalar(name, value, step)
        self._last = step
        self._waiting += 1
        if self._waiting >= self._flush_interval:
            self._flush()

    def _flush(self) -> None:
        self._writer.flush()
        self._position.write(self._last)
        self._waiting = 0

    def close(self, finished: bool) -> None:
        """Write what is left; whether the run has come to its end makes no difference here."""
        try:
            self._flush()
        finally:
            self._writer.close()
