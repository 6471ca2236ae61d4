"""`train` and `resume`: a run from its configuration to its summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from photon.config.compose import validate
from photon.config.idle import note_idle
from photon.config.resolve import (
    check_resumable,
    count_epochs,
    fill_open_keys,
    idle_warning,
    replace_keys,
    resolve,
    schedule_warning,
)
from photon.config.schema import Config
from photon.data.read.verify import require_tokenizer
from photon.data.tokenizer import tokenizer_digest
from photon.errors import (
    DataError,
    Interrupted,
    MismatchedCheckpoint,
    RoundFailed,
    RunFolderError,
)
from photon.experiment.baselines import baselines
from photon.experiment.begin_with import copy_of_run
from photon.experiment.job import (
    EngineFactory,
    Job,
    TrackerFactory,
    on_this_machine,
    open_job,
)
from photon.experiment.runs import train_in
from photon.hub.warm_start import check_warm_start, layers_warning, tokenizer_warning
from photon.machine.device import count_gpus, num_cores, precision_warning
from photon.machine.process_group import from_first
from photon.model.build import empty_model, parameters_of
from photon.model.hf_config import export_note
from photon.node.fit import with_microbatch
from photon.run.going_on import how_to_go_on, require_engine
from photon.run.kinds import CENTRALIZED, FEDERATED, IMPORTED
from photon.run.outer import outer_of
from photon.run.own_layers import layers_note, require_no_tasks
from photon.run.participation import client_rows, repeats_note
from photon.run.preparation import prepare, with_architecture, with_start
from photon.run.restore import config_to_go_on, find_run, rewind, rounds_done
from photon.run.results import History, TrainResult, write_summary
from photon.run.rows import data_root
from photon.run.run_folder import RunFolder, read_facts, read_run, refuse_existing, run_facts
from photon.run.run_tokens import encoder_of_data, tokenization_facts
from photon.run.trackers import read_lines
from photon.say import Say
from photon.scoring.task_watch import check_tasks
from photon.tracking.external import require_trackers
from photon.training.layers import layers_of


def train(
    given: Config,
    *,
    centralized: bool = False,
    say: Say = lambda line: None,
    console: TrackerFactory | None = None,
    engine: EngineFactory = on_this_machine,
) -> TrainResult:
    """Train a model: a federated run, or a centralised one.

    Args:
        centralized: no federation: one trainer on the clients' joined batches
            (`centralized.stream_id` picks one client's data instead). Under `torchrun`, one
            process per device.
        say: takes lines for the user.
        console: gives a tracker that shows progress.
        engine: gives what trains the clients of a federated run; default: this machine.

    Returns:
        The result; the same is in `summary.json` of the run folder.

    Raises:
        PhotonError: its subclasses, each with one line that says what to do.
    """
    kind = CENTRALIZED if centralized else FEDERATED
    if _is_there(given):
        return _resume_as(given, say, console, engine)
    with open_job(given.machine.device, kind, say, console, engine) as job:
        config, data = _agree(job, lambda: _begin(given, kind, job))
        path = Path(config.machine.runs_folder) / str(config.name)
        return _run(path, config, data, kind, job)


def resume(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    say: Say = lambda line: None,
    console: TrackerFactory | None = None,
    engine: EngineFactory = on_this_machine,
) -> TrainResult:
    """Go on with a run from its last commit, bit for bit.

    Args:
        path: the run folder.
        overrides: keys that may change: the run's length may be raised, or lowered to what is done,
            which ends it; evaluation, system and comparison keys may be set.

    Raises:
        MismatchedCheckpoint: an override, or the data, would change the mathematics.
        RunFolderError: no run there, an imported model, a run of another engine, or another
            process is at it.
    """
    path = Path(path)
    facts = read_run(path)[1]
    _require_run(path, facts, engine)
    changed = config_to_go_on(path, overrides)
    here = facts["kind"] == CENTRALIZED or engine is on_this_machine
    note_idle(changed, overrides, facts["kind"] if here else "server")
    return _go_on(path, changed, facts, say, console, engine)


def _is_there(config: Config) -> bool:
    """Whether the configuration goes on with a run (`photon.resume_round`) that is here, or in the
    mirror; nothing to go on with is an error, but for -1.

    Raises:
        RunFolderError: no such run.
    """
    wanted, name = config.machine.resume_round, config.name
    if wanted is None or name is None or config.machine.copied_run is not None:
        return False
    try:
        find_run(config, name)
    except RunFolderError:
        if wanted == -1:
            return False
        raise
    return True


def _resume_as(
    config: Config, say: Say, console: TrackerFactory | None, engine: EngineFactory
) -> TrainResult:
    """Go on with the run of that name.

    Raises:
        MismatchedCheckpoint: the run that is there computes something else.
    """
    path = Path(config.machine.runs_folder) / str(config.name)
    saved, facts = read_run(path)
    _require_run(path, facts, engine)
    given = _written_out(config, facts["kind"], say)
    changed = fill_open_keys(saved, given)
    check_resumable(saved, changed, rounds_done(path, changed, facts["kind"]))
    return _go_on(path, changed, facts, say, console, engine)


def train_or_resume(
    config: Config,
    *,
    say: Say = lambda line: None,
    console: TrackerFactory | None = None,
    engine: EngineFactory = on_this_machine,
) -> TrainResult:
    """Start the run of that name, or go on with it: the same command does both.

    Raises:
        MismatchedCheckpoint: the run that is there computes something else.
    """
    path = Path(config.machine.runs_folder) / str(config.name)
    if not (path / "run.json").exists():
        return train(config, say=say, console=console, engine=engine)
    return _resume_as(config, say, console, engine)


def _require_run(path: Path, facts: Mapping[str, Any], engine: EngineFactory) -> None:
    if facts["kind"] == IMPORTED:
        raise RunFolderError(
            f"{path}: is an imported model, not a run; train from it with "
            f"pretrained_model_path={path}"
        )
    if facts["kind"] not in (FEDERATED, CENTRALIZED):
        raise RunFolderError(f"{path}: hosts clients for a server elsewhere; the server goes on")
    if facts["kind"] == FEDERATED:
        require_engine(path, facts, engine.name)


def _go_on(
    path: Path,
    changed: Config,
    facts: Mapping[str, Any],
    say: Say,
    console: TrackerFactory | None,
    engine: EngineFactory,
) -> TrainResult:
    if facts["kind"] == FEDERATED:
        changed = replace_keys(changed, {"llm_config.max_duration": changed.total_steps})
    with open_job(changed.machine.device, facts["kind"], say, console, engine) as job:
        config, data = _agree(job, lambda: _again(changed, job))
        if data["digest"] != facts["data_digest"]:
            raise MismatchedCheckpoint(
                f"{data_root(config)}: is not the data that {path} was trained on; a run is "
                "resumed with the same data"
            )
        require_tokenizer(data_root(config), data, tokenizer_digest(path / "tokenizer.json"))
        return _run(path, config, data, facts["kind"], job, existing=True)


def _agree(
    job: Job, compute: Callable[[], tuple[Config, dict[str, Any]]]
) -> tuple[Config, dict[str, Any]]:
    """Configuration and data manifest as the first process finds them, on all processes."""

    def plain() -> dict[str, Any]:
        config, data = compute()
        return {"config": config.model_dump(mode="json"), "data": data}

    agreed = from_first(job.world, plain)
    return validate(agreed["config"]), agreed["data"]


def _written_out(config: Config, kind: str, say: Say) -> Config:
    """A configuration as a run keeps it, but for what is left open."""
    config = with_start(with_architecture(config))
    return count_epochs(
        config, lambda: client_rows(prepare(config, say)[0]), centralized=kind == CENTRALIZED
    )


def _needed(job: Job) -> Collection[int] | None:
    """Clients whose data must be on this machine; None: all."""
    return () if job.trains_elsewhere else None


def _again(config: Config, job: Job) -> tuple[Config, dict[str, Any]]:
    """Find or make the data of a run that goes on."""
    require_trackers(config)
    config, data = prepare(config, job.say, _needed(job))
    try:
        check_tasks(config)
    except DataError as error:  # a task may have changed: no reason not to go on
        job.warn(str(error))
    return config, data


def _begin(config: Config, kind: str, job: Job) -> tuple[Config, dict[str, Any]]:
    """Resolve a new run's configuration and find or make its data."""
    require_trackers(config)
    config = _written_out(config, kind, job.say)
    check_warm_start(config)
    layers_of(config.federation, list(parameters_of(empty_model(config.inner))))  # refused, or fine
    outer_of(config, 1)
    centralized = kind == CENTRALIZED
    if not centralized:
        require_no_tasks(config)
    config = resolve(
        config,
        cores=max(1, num_cores() // job.world.size),
        accelerator=count_gpus(config.machine.device),
        run_uuid=time.strftime(f"{kind}-%Y%m%d-%H%M%S"),
        centralized=centralized,
        elsewhere=job.trains_elsewhere,
    )
    refuse_existing(Path(config.machine.runs_folder) / str(config.name))  # before data is made
    config, data = prepare(config, job.say, _needed(job))
    check_tasks(config)
    job.warn(tokenizer_warning(config), layers_warning(config))
    if job.trains_elsewhere:
        return config, data
    size = job.world.size if centralized else config.machine.devices_per_client
    role = "centralized" if centralized else "run"
    return with_microbatch(config, job.device, size, role), data


def _run(
    path: Path,
    config: Config,
    data: Mapping[str, Any],
    kind: str,
    job: Job,
    existing: bool = False,
) -> TrainResult:
    """Train in a new or existing folder, then the baselines that the configuration asks for."""
    job.warn(
        schedule_warning(config),
        idle_warning(config) if kind == FEDERATED else None,
        _repeats_note(config, kind == CENTRALIZED, job),
        export_note(config.inner),
        layers_note(config, kind == FEDERATED and job.trains_elsewhere),
        precision_warning(job.device, config.inner.precision),
    )
    try:
        with _folder(path, config, data, kind, job, existing) as folder:
            result = train_in(folder, config, job)
            if kind == FEDERATED:
                result = _with_baselines(folder, result, config, data, job)
            result = replace(result, history=History(read_lines(folder.metrics)))
            if job.world.is_first:
                write_summary(folder.path, result)
    except (Interrupted, RoundFailed) as error:
        error.args = (f"{error}; go on with: {how_to_go_on(path, read_facts(path))}",)
        raise
    return result


def _repeats_note(config: Config, centralized: bool, job: Job) -> str | None:
    if job.trains_elsewhere or not job.world.is_first:
        return None  # whoever has the rows says so
    only = config.centralized.client if centralized else None
    clients = range(config.federation.population) if only is None else [only]
    return repeats_note(config, clients, joined=centralized)


def _folder(
    path: Path, config: Config, data: Mapping[str, Any], kind: str, job: Job, existing: bool
) -> RunFolder:
    """The run's folder, made or opened and locked by the first process."""
    opened: list[RunFolder] = []

    engine = job.engine.facts() if kind == FEDERATED else {}
    kept = replace_keys(config, {"photon.resume_round": None})  # it is said of this command only

    def open_or_create() -> None:
        if existing:
            opened.append(RunFolder.open(path))
            if config.machine.resume_round is not None:
                rewind(path, config.machine.resume_round)
            opened[0].save_config(kept)
            opened[0].save_facts(engine)
            return
        copy = copy_of_run(config, data) if kind == FEDERATED else None
        tokenizer = data_root(config) / "tokenizer.json"
        tokens = tokenization_facts(encoder_of_data(config).facts, tokenizer)
        facts = run_facts(config, data) | tokens | engine
        opened.append(RunFolder.create(path, kept, kind, tokenizer, facts))
        if copy is not None:
            job.warn(*copy.notes)
            copy.write(opened[0])

    from_first(job.world, open_or_create)
    return opened[0] if opened else RunFolder(path, config, kind, locked=False)


def _with_baselines(
    folder: RunFolder, result: TrainResult, config: Config, data: Mapping[str, Any], job: Job
) -> TrainResult:
    """Train the data-parallel twin and the control in folders of their own, or go on with them."""
    for label, changes in baselines(config).items():
        path = folder.path / "baselines" / label
        twin = with_microbatch(replace_keys(config, changes), job.device, role="centralized")
        existing = (path / "run.json").exists()
        with _folder(path, twin, data, CENTRALIZED, job, existing) as home:
            trained = train_in(home, twin, job)
            write_summary(path, trained)
        result = replace(result, **{label: getattr(trained, label)})
    return result
