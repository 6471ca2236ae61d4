"""What a federated and a centralised run have in common: what watches them, and how they end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from photon.config.llm import Inner
from photon.config.resolve import Run
from photon.config.schema import Centralized
from photon.data.read.shards import RowSource
from photon.evaluation.loss import LossReport, bytes_per_token
from photon.experiment.job import Job
from photon.machine.process_group import from_first
from photon.run import checkpoint
from photon.run.kinds import FEDERATED
from photon.run.mirror import Mirror
from photon.run.results import Score
from photon.run.run_data import RunData
from photon.run.run_folder import RunFolder
from photon.run.run_tokens import encoder_of_data
from photon.run.trackers import Tracker, read_lines
from photon.scoring.task_watch import TaskWatch


def run_label(kind: str, centralized: Centralized) -> str:
    """The field of `TrainResult` that a run fills: federated, centralized or alone."""
    return kind if kind == FEDERATED or centralized.client is None else "alone"


def task_watch(run: Run, data: RunData, job: Job) -> TaskWatch:
    gauntlet, encoder = run.composites.gauntlet, encoder_of_data(data)
    return TaskWatch(run.scoring, gauntlet, run.inner, encoder, job.device, job.warn)


def begins_with_evaluation(folder: RunFolder, inner: Inner, done: int) -> bool:
    """Whether the first parameters are to be scored, and have not been."""
    return inner.validates_first and done == 0 and not read_lines(folder.metrics)


def mirroring(folder: RunFolder, run: Run) -> Callable[[], None]:
    """What follows a commit: the mirror takes it, if there is one."""
    if run.mirror.bucket is None:
        return lambda: None
    return Mirror(folder.path, run.mirror, run.name).push


def clean_up(folder: RunFolder, wanted: bool) -> None:
    """At the end of a run, delete what only an unfinished one needs, if that is asked for."""
    if not wanted:
        return
    checkpoint.prune_checkpoints(folder.checkpoints, 1)
    for home in folder.clients.glob("client_*"):
        checkpoint.prune_checkpoints(home, 1)


def final_report(
    folder: RunFolder,
    rows: RowSource,
    job: Job,
    *,
    score: Callable[[], LossReport],
    complete: Tracker,
    record: Callable[[LossReport], dict[str, Any]],
) -> LossReport:
    """The validation of a run's end: that of the last record, or a new one, which is added to it (a
    run that was cut short has none there).

    Args:
        rows: that are scored.
        complete: adds to the last record.
        record: what it is given.
    """
    done = from_first(job.world, lambda: _last_validation(folder, rows) is not None)
    report = _last_validation(folder, rows) if done else None
    if report is None:
        report = score()
        complete(record(report))
    return report


def _last_validation(folder: RunFolder, rows: RowSource) -> LossReport | None:
    """The validation of the last record, if it has one: the run's end was already scored."""
    last = (read_lines(folder.metrics) or [{}])[-1]
    if "val_loss" not in last:
        return None
    return LossReport(last["val_loss"], last["val_accuracy"], 0, bytes_per_token(rows))


def score_of(inner: Inner, report: LossReport, tokens: int, steps: int, seconds: float) -> Score:
    return Score(
        val_loss=report.loss,
        perplexity=report.perplexity,
        bits_per_byte=report.bits_per_byte,
        tokens=tokens,
        steps=steps,
        seconds=seconds,
        learning_rate=inner.optimizer.lr,
    )
