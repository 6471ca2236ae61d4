"""A centralised run in its folder: the trainer from its last commit to its end, scored."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch

from photon.config.resolve import Run
from photon.data.read.stream import JoinedStream
from photon.evaluation.loss import LossReport, Share, held_out_loss
from photon.experiment.centralized import Effects, train_centralized
from photon.experiment.course import (
    begins_with_evaluation,
    clean_up,
    final_report,
    mirroring,
    run_label,
    score_of,
    task_watch,
)
from photon.experiment.job import Job
from photon.hub.warm_start import WarmStart, warm_start
from photon.model.build import empty_model, load_parameters, model_with, parameters_of
from photon.run import checkpoint
from photon.run.live import FILE, Beacon
from photon.run.results import Score
from photon.run.run_data import VALIDATION, RunData
from photon.run.run_folder import RunFolder
from photon.run.trackers import JsonlTracker, Tracker, to_all
from photon.server.records import loss_record
from photon.tracking.external import ExternalTrackers
from photon.training.layers import layers_of
from photon.training.loop import Trainer
from photon.training.state import TrainState


def train_centrally(folder: RunFolder, run: Run, job: Job, outside: ExternalTrackers) -> Score:
    """Take the steps that are left, of all clients' data or of one's; gives the last score."""
    torch.set_num_threads(run.machine.threads)
    course = _Course(folder, run, job)
    track = course.begin(outside)
    if run.centralized.only_validates:
        return course.validate_only(track)
    state, seconds = course.train(track)
    if job.world.is_first:
        clean_up(folder, run.clears_checkpoints)
    return score_of(run.inner, course.end(), state.num_tokens, state.step, seconds)


class _Course:
    """A run's steps with what watches them.

    Attributes:
        trainer: at the last commit, or at the first step.
        seconds: of training so far.
        share: this process's part of what is scored.
        lines: metrics.jsonl, which the first process writes; None elsewhere.
        tasks: scored beside the loss, where one process trains.
    """

    def __init__(self, folder: RunFolder, run: Run, job: Job) -> None:
        self.folder, self.run, self.job = folder, run, job
        only, data = run.centralized.client, RunData.of(*run.reading)
        clients = range(run.federation.population) if only is None else [only]
        self.stream = JoinedStream([data.stream(client) for client in clients])
        frozen = layers_of(run.federation, list(parameters_of(empty_model(run.inner)))).frozen
        self.trainer = Trainer(run.inner, run.seed, job.device, job.world, frozen)
        start = warm_start(run.inner, run.starts, run.federation)
        self.seconds = _load_trainer(folder, start, self.trainer, self.stream)
        folder.loaded()
        self.validation = data.rows(VALIDATION)
        self.share = Share(job.world.rank, job.world.size, job.world.sum)
        self.tasks = task_watch(run, data, job)
        if self.tasks.tasks and job.world.size > 1:
            job.warn("several processes train this model, so no tasks are scored until it is saved")
        self.lines = _step_lines(folder, self.trainer.state.step, job)

    def begin(self, outside: ExternalTrackers) -> Tracker:
        """What takes the records; scores the first parameters if asked for, and not done yet."""
        run, step = self.run, self.trainer.state.step
        track = self.tasks.adding_to(self._tracker(outside))
        if run.centralized.keeps_first and step == 0:
            _store(self.folder, self.trainer, "init_model")
        if run.centralized.only_validates:
            return track
        if begins_with_evaluation(self.folder, run.inner, step):
            track({"step": 0, "steps": run.inner.max_steps, "tokens": 0, **self._scored()})
        return track

    def validate_only(self, track: Tracker) -> Score:
        report = self.score()
        track({"step": 0, "steps": 0, "tokens": 0, **self.record(report)})
        return score_of(self.run.inner, report, 0, 0, 0.0)

    def train(self, track: Tracker) -> tuple[TrainState, float]:
        """To the last step; gives its state and the seconds of training."""
        folder, job = self.folder, self.job
        beacon = Beacon(folder.path / FILE if job.world.is_first else None)
        commit = _commit(folder, self.run, self.trainer, self.lines)
        effects = Effects(validate=self._scored, track=track, commit=commit, beacon=beacon)
        with checkpoint.naming_last_good(folder.checkpoints), closing(beacon):
            ended = train_centralized(
                self.run.inner,
                self.trainer,
                self.stream,
                seconds=self.seconds,
                stop=job.stop,
                effects=effects,
            )
        if self.run.centralized.keeps_last:
            _store(folder, self.trainer, "final_model")
        return ended

    def score(self) -> LossReport:
        trainer, inner = self.trainer, self.run.inner
        if self.tasks.tasks and self.job.world.size == 1:
            params = parameters_of(trainer.model)
            self.tasks.score(model_with(inner, params, self.job.device))  # not compiled
        return held_out_loss(trainer.model, self.validation, inner, self.share)

    def record(self, report: LossReport) -> dict[str, Any]:
        own = _client_losses(self.run, self.trainer.model, self.share)
        return loss_record(report) | ({"client_val_loss": own} if own else {})

    def end(self) -> LossReport:
        return final_report(
            self.folder,
            self.validation,
            self.job,
            score=self.score,
            complete=self.tasks.adding_to(self.lines.complete if self.lines else to_all([])),
            record=self.record,
        )

    def _scored(self) -> dict[str, Any]:
        return self.record(self.score())

    def _tracker(self, outside: ExternalTrackers) -> Tracker:
        if self.lines is None:
            return to_all([])
        label = run_label(self.folder.kind, self.run.centralized)
        shown = self.job.trackers(self.folder, label)
        return to_all([self.lines, *shown, *outside.begin("step", self.trainer.state.step)])


def _commit(
    folder: RunFolder, run: Run, trainer: Trainer, lines: JsonlTracker | None
) -> Callable[[float], None]:
    """Saves the live state; several processes gather it together, the first one writes."""
    mirror = mirroring(folder, run)

    def save(seconds: float) -> None:
        state = trainer.snapshot()
        if trainer.world.is_first:
            name = f"step_{state.step:06d}"
            extra = {"seconds": seconds, "record": dict(lines.last or {}) if lines else None}
            checkpoint.save_train_state(folder.checkpoints, name, state, extra)
            checkpoint.prune_checkpoints(folder.checkpoints, run.checkpoints_kept)
            mirror()

    return save


def _store(folder: RunFolder, trainer: Trainer, name: str) -> None:
    """Keep the parameters under a name of their own, beside the checkpoints that come and go."""
    params = trainer.snapshot(moments=False).params
    if trainer.world.is_first:
        checkpoint.save_train_state(folder.checkpoints, name, TrainState(params=params))


def _client_losses(run: Run, model: torch.nn.Module, share: Share) -> dict[str, float]:
    """Losses on the clients' own held-out parts, by client; none unless `split_eval`."""
    if not run.centralized.validates_clients:
        return {}
    data = RunData.of(*run.reading)
    return {
        str(client): held_out_loss(model, data.own_validation(client), run.inner, share).loss
        for client in range(run.federation.population)
    }


def _step_lines(folder: RunFolder, step: int, job: Job) -> JsonlTracker | None:
    """metrics.jsonl, which the first process writes."""
    if not job.world.is_first:
        return None
    kept = checkpoint.kept_records(folder.checkpoints)
    return JsonlTracker(folder.metrics, "step", step, kept)


def _load_trainer(
    folder: RunFolder, start: WarmStart, trainer: Trainer, stream: JoinedStream
) -> float:
    """Put the last committed state into the trainer, or the first; gives the seconds so far."""
    if not checkpoint.list_checkpoints(folder.checkpoints):
        warm = start.parameters(parameters_of(trainer.model))
        load_parameters(trainer.model, warm or {})
        trainer.state = replace(trainer.state, streams=stream.start())
        return 0.0
    newest = checkpoint.newest_checkpoint(folder.checkpoints)
    state, extra = checkpoint.load_with_way_back(newest, checkpoint.load_train_state)
    checkpoint.require_same_model(state.params, parameters_of(trainer.model), newest)
    trainer.load(state)
    return extra["seconds"]
