"""One run in its folder: build or load its state, train it to its end, score it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

import torch

from photon.chain.ledger import Chain
from photon.config.between.resume import LENGTH_OF
from photon.config.llm import Inner
from photon.config.resolve import Run
from photon.config.schema import Centralized
from photon.core.diagnostics import data_parallel_bytes
from photon.core.messages import ServerState
from photon.core.tree import num_elements
from photon.data.read.shards import RowSource
from photon.data.read.stream import JoinedStream
from photon.errors import DataError
from photon.evaluation.loss import LossReport, Share, bytes_per_token, held_out_loss
from photon.experiment.centralized import Effects, train_centralized
from photon.experiment.job import Job
from photon.experiment.public_loss import scoring_of
from photon.hub.warm_start import WarmStart, warm_start
from photon.machine.device import return_freed_memory
from photon.machine.process_group import from_first
from photon.model.build import build_model, empty_model, load_parameters, model_with, parameters_of
from photon.run import checkpoint
from photon.run.kinds import FEDERATED
from photon.run.live import FILE, Beacon
from photon.run.mirror import Mirror
from photon.run.outer import outer_of
from photon.run.own_layers import mean_over_clients, own_layers
from photon.run.results import Score, TrainResult
from photon.run.run_data import VALIDATION, RunData
from photon.run.run_folder import RunFolder
from photon.run.run_tokens import encoder_of_data
from photon.run.trackers import JsonlTracker, Tracker, read_lines, to_all
from photon.scoring.task_watch import TaskWatch
from photon.scoring.unigram import unigram_score
from photon.server.loop import Server, initial_state
from photon.server.pace import is_over
from photon.server.records import length_of, loss_record
from photon.tracking.external import ExternalTrackers
from photon.training.layers import layers_of
from photon.training.loop import Trainer
from photon.training.state import TrainState


def train_in(folder: RunFolder, run: Run, job: Job) -> TrainResult:
    """Train the run of an open folder from its last commit, or from the start, to its end.

    Raises:
        Interrupted: a signal arrived; everything is saved.
    """
    return_freed_memory()
    label = run_label(folder.kind, run.centralized)
    size = num_elements(parameters_of(empty_model(run.inner)))
    job.say(f"{label:<12}{size:,} parameters, run folder {folder.path}")
    if (line := _nothing_left(folder, run)) is not None:
        job.say(line)
    unigram = _unigram(run, job)
    if unigram is not None and job.world.is_first:
        folder.save_facts({"unigram": asdict(unigram)})  # the summary comes at the end
    result = TrainResult(
        run=run.name,
        folder=folder.path,
        parameters=size,
        rounds=run.federation.rounds if folder.kind == FEDERATED else 0,
        unigram=unigram,
    )
    board, setup = run.inner.loggers.tensorboard, run.wandb_setup
    with ExternalTrackers(
        folder, run.name, board, setup, job.world.is_first, job.say, job.warn
    ) as outside:
        if folder.kind == FEDERATED:
            return _federated(folder, run, job, result, outside)
        return replace(result, **{label: _centralized(folder, run, job, outside)})


def _nothing_left(folder: RunFolder, run: Run) -> str | None:
    """What to say of a run that is as long as was asked for before anything is trained."""
    if not (kept := checkpoint.list_checkpoints(folder.checkpoints)):
        return None
    length, what = run.length(folder.kind == FEDERATED), kept[-1].stem.partition("_")[0]
    if folder.kind == FEDERATED and run.federation.is_async:
        what, done = "step", checkpoint.steps_done(kept[-1])
    else:
        done = checkpoint.number_of(kept[-1])
    if done < length:
        return None
    key = LENGTH_OF[folder.kind]
    asked = run.federation.rounds if folder.kind == FEDERATED else length
    return f"{'done':<12}{what} {done} with {key}={asked}: nothing is left to train; more goes on"


def _unigram(run: Run, job: Job) -> Score | None:
    """The floor; None where token frequencies are missing and may be.

    Raises:
        DataError: they are missing, and asked for or the clients' data should be here.
    """
    fl = run.federation
    try:
        return unigram_score(RunData.of(*run.reading), fl.population)
    except DataError:
        if fl.unigram_may_fail or (job.trains_elsewhere and not fl.unigram_metrics):
            return None
        raise


def run_label(kind: str, centralized: Centralized) -> str:
    """The field of `TrainResult` that a run fills: federated, centralized or alone."""
    return kind if kind == FEDERATED or centralized.client is None else "alone"


def _federated(
    folder: RunFolder, run: Run, job: Job, result: TrainResult, outside: ExternalTrackers
) -> TrainResult:
    # Held by nobody else, so that its memory is free once the next one is there.
    states = [_server_state(folder, run)]
    done = states[0].round
    kept = checkpoint.kept_records(folder.checkpoints)
    lines = JsonlTracker(folder.metrics, "round", done, kept)  # first: the others follow the file
    shown = [*job.trackers(folder, FEDERATED), *outside.begin("round", done)]
    data = RunData.of(*run.reading)
    tasks = _task_watch(run, data, job)
    track = tasks.adding_to(to_all([lines, *shown]))
    validation = data.rows(VALIDATION)

    def score(state: ServerState) -> LossReport:
        model = model_with(run.inner, state.params, job.device)
        tasks.score(model)
        own = own_layers(run.federation, folder.path, state.last_accepted)
        here = own.here if own is not None else ()
        return mean_over_clients(
            model, own, here, lambda: held_out_loss(model, validation, run.inner)
        )

    floor = result.unigram.val_loss if run.federation.unigram_metrics and result.unigram else None
    if _begins_with_evaluation(folder, run.inner, done):
        start = {"round": 0, **length_of(run), "step": 0, "tokens": 0}
        track(start | loss_record(score(states[0]), floor))
    if not is_over(run, states[0]):  # or it is only to be summed up, for which it needs no node
        beacon = Beacon(folder.path / FILE)
        chain = Chain.opened(folder.path, run.name, job.engine.seal, run.seed)
        with closing(job.engine.make(folder, run, job)) as engine, closing(beacon):
            server = Server(
                run=run,
                checkpoints=folder.checkpoints,
                engine=engine,
                validate=lambda state: loss_record(score(state), floor),
                track=track,
                stop=job.stop,
                written=lambda: lines.last,
                committed=_mirroring(folder, run),
                tell=beacon.tell,
                clock=engine.clock,
                scoring=scoring_of(run.federation, run.inner, validation, job.device),
                chain=chain,
            )
            states.append(server.serve(states.pop()))
    (state,) = states
    _clean_up(folder, run.clears_checkpoints)
    report = _final_report(
        folder,
        validation,
        job,
        score=lambda: score(state),
        complete=tasks.adding_to(lines.complete),
        record=lambda report: loss_record(report, floor),
    )
    return replace(
        result,
        federated=_score(run.inner, report, state.num_tokens, state.step, state.train_seconds),
        bytes_up=state.bytes_up,
        bytes_down=state.bytes_down,
        bytes_ddp=data_parallel_bytes(result.parameters, run.federation.cohort_size, state.step),
    )


def _task_watch(run: Run, data: RunData, job: Job) -> TaskWatch:
    gauntlet, encoder = run.composites.gauntlet, encoder_of_data(data)
    return TaskWatch(run.scoring, gauntlet, run.inner, encoder, job.device, job.warn)


def _begins_with_evaluation(folder: RunFolder, inner: Inner, done: int) -> bool:
    """Whether the first parameters are to be scored, and have not been."""
    return inner.validates_first and done == 0 and not read_lines(folder.metrics)


def _mirroring(folder: RunFolder, run: Run) -> Callable[[], None]:
    """What follows a commit: the mirror takes it, if there is one."""
    if run.mirror.bucket is None:
        return lambda: None
    return Mirror(folder.path, run.mirror, run.name).push


def _clean_up(folder: RunFolder, wanted: bool) -> None:
    """At the end of a run, delete what only an unfinished one needs, if that is asked for."""
    if not wanted:
        return
    checkpoint.prune_checkpoints(folder.checkpoints, 1)
    for home in folder.clients.glob("client_*"):
        checkpoint.prune_checkpoints(home, 1)


def _server_state(folder: RunFolder, run: Run) -> ServerState:
    """The last committed state, or the first one, committed."""
    if checkpoint.list_checkpoints(folder.checkpoints):
        newest = checkpoint.newest_checkpoint(folder.checkpoints)
        state = checkpoint.load_with_way_back(newest, checkpoint.load_server_state)
        checkpoint.require_same_model(state.params, parameters_of(empty_model(run.inner)), newest)
        return state
    seeded = parameters_of(build_model(run.inner, run.seed))
    params = warm_start(run.inner, run.starts, run.federation).parameters(seeded)
    first = outer_of(run.federation, 1)
    state = initial_state(seeded if params is None else params, first, is_seeded=params is None)
    checkpoint.save_server_state(folder.checkpoints, state)
    return state


def _centralized(folder: RunFolder, run: Run, job: Job, outside: ExternalTrackers) -> Score:
    torch.set_num_threads(run.machine.threads)
    only, data, inner = run.centralized.client, RunData.of(*run.reading), run.inner
    clients = range(run.federation.population) if only is None else [only]
    stream = JoinedStream([data.stream(client) for client in clients])
    frozen = layers_of(run.federation, list(parameters_of(empty_model(inner)))).frozen
    trainer = Trainer(inner, run.seed, job.device, job.world, frozen)
    start = warm_start(run.inner, run.starts, run.federation)
    seconds = _load_trainer(folder, start, trainer, stream)
    validation, share = data.rows(VALIDATION), Share(job.world.rank, job.world.size, job.world.sum)
    tasks = _task_watch(run, data, job)
    if tasks.tasks and job.world.size > 1:
        job.warn("several processes train this model, so no tasks are scored until it is saved")

    def score() -> LossReport:
        if tasks.tasks and job.world.size == 1:
            params = parameters_of(trainer.model)
            tasks.score(model_with(inner, params, job.device))  # not compiled
        return held_out_loss(trainer.model, validation, inner, share)

    def record(report: LossReport) -> dict[str, Any]:
        own = _client_losses(run, trainer.model, share)
        return loss_record(report) | ({"client_val_loss": own} if own else {})

    keys, lines = run.centralized, _step_lines(folder, trainer.state.step, job)
    track = tasks.adding_to(_step_tracker(folder, keys, lines, trainer.state.step, job, outside))
    if keys.keeps_first and trainer.state.step == 0:
        _store(folder, trainer, "init_model")
    if _begins_with_evaluation(folder, inner, trainer.state.step) and not keys.only_validates:
        start = {"step": 0, "steps": inner.max_steps, "tokens": 0}
        track(start | record(score()))
    if keys.only_validates:
        report = score()
        track({"step": 0, "steps": 0, "tokens": 0, **record(report)})
        return _score(inner, report, 0, 0, 0.0)
    beacon = Beacon(folder.path / FILE if job.world.is_first else None)
    with checkpoint.naming_last_good(folder.checkpoints), closing(beacon):
        state, seconds = train_centralized(
            inner,
            trainer,
            stream,
            seconds=seconds,
            stop=job.stop,
            effects=Effects(
                validate=lambda: record(score()),
                track=track,
                commit=_commit(folder, run, trainer, lines),
                beacon=beacon,
            ),
        )
    if keys.keeps_last:
        _store(folder, trainer, "final_model")
    if job.world.is_first:
        _clean_up(folder, run.clears_checkpoints)
    complete = tasks.adding_to(lines.complete if lines else to_all([]))
    report = _final_report(folder, validation, job, score=score, complete=complete, record=record)
    return _score(inner, report, state.num_tokens, state.step, seconds)


def _commit(
    folder: RunFolder, run: Run, trainer: Trainer, lines: JsonlTracker | None
) -> Callable[[float], None]:
    """Saves the live state; several processes gather it together, the first one writes."""
    mirror = _mirroring(folder, run)

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


def _step_tracker(
    folder: RunFolder,
    keys: Centralized,
    lines: JsonlTracker | None,
    step: int,
    job: Job,
    outside: ExternalTrackers,
) -> Tracker:
    if lines is None:
        return to_all([])
    shown = [*job.trackers(folder, run_label(folder.kind, keys)), *outside.begin("step", step)]
    return to_all([lines, *shown])


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


def _last_validation(folder: RunFolder, rows: RowSource) -> LossReport | None:
    """The validation of the last record, if it has one: the run's end was already scored."""
    last = (read_lines(folder.metrics) or [{}])[-1]
    if "val_loss" not in last:
        return None
    return LossReport(last["val_loss"], last["val_accuracy"], 0, bytes_per_token(rows))


def _final_report(
    folder: RunFolder,
    rows: RowSource,
    job: Job,
    *,
    score: Callable[[], LossReport],
    complete: Tracker,
    record: Callable[[LossReport], dict[str, Any]],
) -> LossReport:
    """The validation of a run's end; the last record has none where the run was made to end there.

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


def _score(inner: Inner, report: LossReport, tokens: int, steps: int, seconds: float) -> Score:
    return Score(
        val_loss=report.loss,
        perplexity=report.perplexity,
        bits_per_byte=report.bits_per_byte,
        tokens=tokens,
        steps=steps,
        seconds=seconds,
        learning_rate=inner.optimizer.lr,
    )
