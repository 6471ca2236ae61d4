"""A federation in its folder: the server from its last commit to its end, scored."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from typing import Any

from photon.chain.ledger import Chain, rounds_in
from photon.config.resolve import Run
from photon.core.diagnostics import data_parallel_bytes
from photon.core.messages import ServerState
from photon.errors import CorruptCheckpoint, RunFolderError
from photon.evaluation.loss import LossReport, held_out_loss
from photon.experiment.course import (
    begins_with_evaluation,
    clean_up,
    final_report,
    mirroring,
    score_of,
    task_watch,
)
from photon.experiment.job import Job
from photon.experiment.public_loss import scoring_of
from photon.hub.warm_start import warm_start
from photon.model.build import build_model, empty_model, model_with, parameters_of
from photon.run import checkpoint
from photon.run.kinds import FEDERATED
from photon.run.live import FILE, Beacon
from photon.run.outer import outer_of
from photon.run.own_layers import mean_over_clients, own_layers
from photon.run.results import TrainResult
from photon.run.run_data import VALIDATION, RunData
from photon.run.run_folder import RunFolder
from photon.run.trackers import JsonlTracker, Tracker, to_all
from photon.server.loop import Effects, Server, initial_state
from photon.server.pace import is_over
from photon.server.records import length_of, loss_record
from photon.tracking.external import ExternalTrackers
from photon.training.layers import num_trained


def train_federated(
    folder: RunFolder, run: Run, job: Job, result: TrainResult, outside: ExternalTrackers
) -> TrainResult:
    """Serve the rounds that are left; gives the result with what the federation achieved.

    Args:
        result: knows the model's size and the unigram floor.
    """
    # Held by nobody else, so that its memory is free once the next one is there.
    states = [_server_state(folder, run)]
    folder.loaded()
    course = _Course(folder, run, job, result, states[0].round)
    shown = [*job.trackers(folder, FEDERATED), *outside.begin("round", states[0].round)]
    track = course.begin(states[0], shown)
    if not is_over(run, states[0]):  # to sum up a run that is over no node is needed
        states.append(course.serve(states, track))
    (state,) = states
    clean_up(folder, run.clears_checkpoints)
    size = num_trained(run.federation, state.params)
    return replace(
        result,
        federated=score_of(
            run.inner, course.end(state), state.num_tokens, state.step, state.train_seconds
        ),
        bytes_up=state.bytes_up,
        bytes_down=state.bytes_down,
        bytes_ddp=data_parallel_bytes(size, run.federation.cohort_size, state.step),
    )


class _Course:
    """A run's rounds with what watches them.

    Attributes:
        lines: metrics.jsonl as of the last commit; there first, since other trackers follow it.
        tasks: scored beside the loss.
        floor: loss of the unigram model, for the records; None where these do without it.
    """

    def __init__(
        self, folder: RunFolder, run: Run, job: Job, result: TrainResult, done: int
    ) -> None:
        self.folder, self.run, self.job = folder, run, job
        kept = checkpoint.kept_records(folder.checkpoints)
        self.lines = JsonlTracker(folder.metrics, "round", done, kept)
        data = RunData.of(*run.reading)
        self.validation = data.rows(VALIDATION)
        self.tasks = task_watch(run, data, job)
        floor = result.unigram if run.federation.unigram_metrics else None
        self.floor = floor.val_loss if floor is not None else None

    def begin(self, state: ServerState, shown: Iterable[Tracker]) -> Tracker:
        """What takes the records; scores the first parameters if asked for, and not done yet."""
        track = self.tasks.adding_to(to_all([self.lines, *shown]))
        if begins_with_evaluation(self.folder, self.run.inner, state.round):
            start = {"round": 0, **length_of(self.run), "step": 0, "tokens": 0}
            track(start | self.record(self.score(state)))
        return track

    def serve(self, states: list[ServerState], track: Tracker) -> ServerState:
        """From the state that is taken out of the list to the last one."""
        folder, run, job = self.folder, self.run, self.job
        beacon = Beacon(folder.path / FILE)
        chain = Chain.opened(folder.path, run.name, job.engine.seal, run.seed)
        with closing(job.engine.make(folder, run, job)) as engine, closing(beacon):
            effects = Effects(
                validate=lambda state: self.record(self.score(state)),
                track=track,
                written=lambda: self.lines.last,
                committed=mirroring(folder, run),
                tell=beacon.tell,
                is_spent=lambda: self.lines.complete({"budget_spent": True}),
            )
            scoring = scoring_of(run.federation, run.inner, self.validation, job.device)
            server = Server(run, folder.checkpoints, engine, job.stop, effects, scoring, chain)
            return server.serve(states.pop())

    def score(self, state: ServerState) -> LossReport:
        """Of the global model; the mean over clients where these have layers of their own."""
        run = self.run
        model = model_with(run.inner, state.model, self.job.device)
        self.tasks.score(model)
        own = own_layers(run.federation, self.folder.path, state.last_accepted)
        here = own.here if own is not None else ()
        return mean_over_clients(
            model, own, here, lambda: held_out_loss(model, self.validation, run.inner)
        )

    def record(self, report: LossReport) -> dict[str, Any]:
        return loss_record(report, self.floor)

    def end(self, state: ServerState) -> LossReport:
        return final_report(
            self.folder,
            self.validation,
            self.job,
            score=lambda: self.score(state),
            complete=self.tasks.adding_to(self.lines.complete),
            record=self.record,
        )


def _server_state(folder: RunFolder, run: Run) -> ServerState:
    """The last committed state, or the first one, committed.

    Raises:
        CorruptCheckpoint: it is damaged, or is no longer there.
        RunFolderError: it was to be a copy, which was never whole.
    """
    if checkpoint.list_checkpoints(folder.checkpoints):
        newest = checkpoint.newest_checkpoint(folder.checkpoints)
        state = checkpoint.load_with_way_back(newest, checkpoint.load_server_state)
        checkpoint.require_same_model(state.params, parameters_of(empty_model(run.inner)), newest)
        return state
    if lost := max(rounds_in(folder.path), default=0):
        raise CorruptCheckpoint(
            f"{folder.checkpoints}: keeps none of the rounds that were committed, up to {lost}; "
            "put its files back, or begin another run (run_uuid)"
        )
    if run.machine.copied_run is not None:  # a copy has a checkpoint, its last file
        raise RunFolderError(
            f"{folder.path}: ended before it held its copy of {run.machine.copied_run}, from which "
            "it was to begin; begin it again with the command that began it, without --resume"
        )
    seeded = parameters_of(build_model(run.inner, run.seed))
    params = warm_start(run.inner, run.starts, run.federation).parameters(seeded)
    first = outer_of(run.federation, 1)
    state = initial_state(seeded if params is None else params, first, is_seeded=params is None)
    checkpoint.save_server_state(folder.checkpoints, state)
    return state
