"""One run in its folder: build or load its state, train it to its end, score it."""

from __future__ import annotations

from dataclasses import asdict, replace

from photon.config.between.resume import LENGTH_OF
from photon.config.resolve import Run
from photon.core.tree import num_elements
from photon.errors import DataError
from photon.experiment.baselines import unigram_score
from photon.experiment.centralized_run import train_centrally
from photon.experiment.course import run_label
from photon.experiment.federated_run import train_federated
from photon.experiment.job import Job
from photon.machine.device import return_freed_memory
from photon.model.build import empty_model, parameters_of
from photon.run import checkpoint
from photon.run.kinds import FEDERATED
from photon.run.results import Score, TrainResult
from photon.run.run_data import RunData
from photon.run.run_folder import RunFolder
from photon.tracking.external import ExternalTrackers


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
            return train_federated(folder, run, job, result, outside)
        return replace(result, **{label: train_centrally(folder, run, job, outside)})


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
