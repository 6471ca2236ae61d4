"""One run in its folder: build or load its state, train it to its end, score it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import torch

from photon.config.schema import Config
from photon.core.diagnostics import data_parallel_bytes
from photon.core.messages import ServerState
from photon.core.outer import outer_optimizer
from photon.core.tree import Tree, num_elements
from photon.data.shards import RowSource
from photon.data.stream import JoinedStream
from photon.evaluation.loss import LossReport, Share, bytes_per_token, evaluate_loss
from photon.model.build import build_model, empty_model, load_parameters, parameters_of
from photon.runtime import checkpoint
from photon.runtime.centralized import train_centralized
from photon.runtime.device import keep_freed_memory
from photon.runtime.job import FEDERATED, Job
from photon.runtime.node import client_stream
from photon.runtime.process_group import from_first
from photon.runtime.results import Score, TrainResult, unigram_score
from photon.runtime.rows import VALIDATION, open_rows
from photon.runtime.run_folder import RunFolder
from photon.runtime.server import initial_state, serve
from photon.runtime.task_watch import TaskWatch
from photon.runtime.trackers import JsonlTracker, Tracker, read_lines, to_all
from photon.runtime.warm_start import initial_parameters
from photon.training.loop import Trainer
from photon.training.parallel import ALONE, World


def train_in(folder: RunFolder, config: Config, job: Job) -> TrainResult:
    """Train the run of an open folder from its last commit, or from the start, to its end.

    Raises:
        Interrupted: a signal arrived; everything is saved.
    """
    keep_freed_memory()
    label = run_label(config, folder.kind)
    size = num_elements(parameters_of(empty_model(config.llm_config)))
    job.say(f"{label:<12}{size:,} parameters, run folder {folder.path}")
    result = TrainResult(
        run=str(config.run_uuid),
        folder=str(folder.path),
        parameters=size,
        rounds=config.fl.n_rounds if folder.kind == FEDERATED else 0,
        unigram=unigram_score(config),
    )
    if folder.kind == FEDERATED:
        return _federated(folder, config, job, result)
    return replace(result, **{label: _centralized(folder, config, job)})


def run_label(config: Config, kind: str) -> str:
    """The field of `TrainResult` that a run fills: federated, centralized or alone."""
    if kind == FEDERATED or config.centralized.stream_id is None:
        return kind
    return "alone"


def _federated(folder: RunFolder, config: Config, job: Job, result: TrainResult) -> TrainResult:
    model = build_model(config.llm_config, config.seed)
    state = _server_state(folder, config, parameters_of(model))
    shown = job.trackers(config, FEDERATED)
    tasks = TaskWatch(config, folder.path / "tokenizer.json", job.device)
    track = tasks.adding_to(to_all([JsonlTracker(folder.metrics, "round", state.round), *shown]))
    model = model.to(job.device)
    validation = open_rows(config, VALIDATION)

    def validate(params: Tree) -> LossReport:
        load_parameters(model, params)
        tasks.score(model)
        return _evaluate(config, model, validation)

    with closing(job.engine(folder, config, job)) as engine:
        state = serve(
            config,
            state,
            checkpoints=folder.checkpoints,
            engine=engine,
            validate=validate,
            track=track,
            stop=job.stop,
        )
    report = _last_validation(folder) or validate(state.params)
    return replace(
        result,
        federated=_score(config, report, state.num_tokens, state.step, state.train_seconds),
        bytes_up=state.bytes_up,
        bytes_down=state.bytes_down,
        bytes_ddp=data_parallel_bytes(result.parameters, config.fl.cohort_size, state.step),
    )


def _server_state(folder: RunFolder, config: Config, params: Tree) -> ServerState:
    """The last committed state, or the first one, committed."""
    if checkpoint.list_checkpoints(folder.checkpoints):
        newest = checkpoint.newest_checkpoint(folder.checkpoints)
        state = checkpoint.load_server_state(newest)
        checkpoint.require_same_model(state.params, params, newest)
        return state
    outer = outer_optimizer(config.fl.strategy_name, config.fl.outer_arguments)
    state = initial_state(initial_parameters(config, params) or params, outer)
    checkpoint.save_server_state(folder.checkpoints, state)
    return state


def _centralized(folder: RunFolder, config: Config, job: Job) -> Score:
    assert isinstance(config.photon.threads, int)
    torch.set_num_threads(config.photon.threads)
    only = config.centralized.stream_id
    clients = range(config.fl.n_total_clients) if only is None else [only]
    stream = JoinedStream([client_stream(config, client) for client in clients])
    trainer = Trainer(config.llm_config, config.seed, job.device, job.world)
    seconds = _load_trainer(folder, trainer, stream)
    validation = open_rows(config, VALIDATION)
    tasks = TaskWatch(config, folder.path / "tokenizer.json", job.device)
    if tasks.tasks and job.world.size > 1:
        job.warn("several processes train this model, so no tasks are scored until it is saved")

    def validate() -> LossReport:
        if tasks.tasks and job.world.size == 1:
            whole = build_model(config.llm_config, config.seed)  # neither compiled nor sharded
            load_parameters(whole, parameters_of(trainer.model))
            tasks.score(whole.to(job.device))
        return _evaluate(config, trainer.model, validation, job.world)

    state, seconds = train_centralized(
        config,
        trainer,
        stream,
        seconds=seconds,
        checkpoints=folder.checkpoints,
        validate=validate,
        track=tasks.adding_to(_step_tracker(folder, config, trainer.state.step, job)),
        stop=job.stop,
    )
    done = from_first(job.world, lambda: _last_validation(folder) is not None)
    report = (_last_validation(folder) if done else None) or validate()
    return _score(config, report, state.num_tokens, state.step, seconds)


def _step_tracker(folder: RunFolder, config: Config, step: int, job: Job) -> Tracker:
    if not job.world.is_first:
        return to_all([])
    shown = job.trackers(config, run_label(config, folder.kind))
    return to_all([JsonlTracker(folder.metrics, "step", step), *shown])


def _load_trainer(folder: RunFolder, trainer: Trainer, stream: JoinedStream) -> float:
    """Put the last committed state into the trainer, or the first; gives the seconds so far."""
    if not checkpoint.list_checkpoints(folder.checkpoints):
        warm = initial_parameters(folder.config, parameters_of(trainer.model))
        load_parameters(trainer.model, warm or {})
        trainer.state = replace(trainer.state, streams=stream.start())
        return 0.0
    newest = checkpoint.newest_checkpoint(folder.checkpoints)
    state, extra = checkpoint.load_train_state(newest)
    checkpoint.require_same_model(state.params, parameters_of(trainer.model), newest)
    trainer.load(state)
    return extra["seconds"]


def _evaluate(
    config: Config, model: torch.nn.Module, rows: RowSource, world: World = ALONE
) -> LossReport:
    llm = config.llm_config
    return evaluate_loss(
        model,
        rows,
        batch_size=llm.device_eval_batch_size,
        max_batches=llm.eval_subset_num_batches,
        precision=llm.precision,
        share=Share(world.rank, world.size, world.sum),
    )


def _last_validation(folder: RunFolder) -> LossReport | None:
    """The validation of the last record, if it has one: the run's end was already scored."""
    last = (read_lines(folder.metrics) or [{}])[-1]
    if "val_loss" not in last:
        return None
    rows = open_rows(folder.config, VALIDATION)
    return LossReport(last["val_loss"], last["val_accuracy"], 0, bytes_per_token(rows))


def _score(config: Config, report: LossReport, tokens: int, steps: int, seconds: float) -> Score:
    return Score(
        val_loss=report.loss,
        perplexity=report.perplexity,
        bits_per_byte=report.bits_per_byte,
        tokens=tokens,
        steps=steps,
        seconds=seconds,
        learning_rate=config.llm_config.optimizer.lr,
    )
