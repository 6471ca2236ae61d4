"""`train` and `resume`: a run from its configuration to its summary."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from photon.config.between.resume import check_resumable, digest, left_open
from photon.config.compose import checked, with_values
from photon.config.explain.idle import idle_overrides, note_idle
from photon.config.resolve import (
    Run,
    count_epochs,
    counted,
    idle_warning,
    outer_schedule_warning,
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
from photon.experiment.refusals import (
    check_federation,
    checked_start,
    federation_warnings,
    require_ledger,
)
from photon.experiment.runs import train_in
from photon.machine.device import count_gpus, num_cores, precision_warning
from photon.machine.process_group import from_first
from photon.model.hf_config import export_note
from photon.node.microbatch import Trainers
from photon.run.going_on import how_to_go_on, require_engine
from photon.run.kinds import CENTRALIZED, ELSEWHERE, FEDERATED, IMPORTED, new_name
from photon.run.mirror import require_mirror
from photon.run.own_layers import layers_note
from photon.run.participation import client_rows, rows_notes
from photon.run.preparation import architecture_of, prepare
from photon.run.restore import (
    config_to_go_on,
    find_run,
    reopened,
    rounds_done,
    start_of_centralized,
)
from photon.run.results import History, TrainResult, write_summary
from photon.run.run_data import RunData
from photon.run.run_folder import RunFolder, may_go_on, read_facts, read_run, refuse_existing
from photon.run.run_tokens import encoder_of_data, tokenization_facts
from photon.run.trackers import read_lines
from photon.say import Say
from photon.scoring.task_watch import check_tasks
from photon.tracking.external import require_trackers
from photon.training.parallel import require_precision


def train(
    given: Config,
    *,
    centralized: bool = False,
    resumes: bool = False,
    say: Say = lambda line: None,
    console: TrackerFactory | None = None,
    engine: EngineFactory = on_this_machine,
) -> TrainResult:
    """Train a model: a federated run, or a centralised one.

    Args:
        centralized: no federation: one trainer on the clients' joined batches
            (`centralized.stream_id` picks one client's data instead). Under `torchrun`, one
            process per device.
        resumes: go on with the run of that name where there is one.
        say: takes lines for the user.
        console: gives a tracker that shows progress.
        engine: gives what trains the clients of a federated run; default: this machine.

    Returns:
        The result; the same is in `summary.json` of the run folder.

    Raises:
        PhotonError: its subclasses, each with one line that says what to do.
    """
    kind = CENTRALIZED if centralized else FEDERATED
    command = _Command(given, say, console, engine)
    goes_on = (resumes and may_go_on(command.path)) or command.names_a_run()
    return command.resume_named() if goes_on else command.begin(kind)


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
    require_run(path, facts, engine.name)
    changed = config_to_go_on(path, overrides)
    course = "centralized" if facts["kind"] == CENTRALIZED else engine.course
    note_idle(idle_overrides(changed, overrides, course))
    return _Command(changed, say, console, engine).go_on(path, facts)


@dataclass(frozen=True, slots=True)
class _Command:
    """A run that is asked for, new or to go on; the arguments are those of `train`."""

    config: Config
    say: Say
    console: TrackerFactory | None
    engine: EngineFactory

    @property
    def path(self) -> Path:
        return Path(self.config.machine.runs_folder) / str(self.config.name)

    def names_a_run(self) -> bool:
        """Whether the configuration goes on with a run (`photon.resume_round`) that is here, or in
        the mirror; nothing to go on with is an error, but for -1.

        Raises:
            RunFolderError: no such run.
        """
        config, machine = self.config, self.config.machine
        if machine.resume_round is None or config.name is None or machine.copied_run is not None:
            return False
        try:
            find_run(machine, config.mirror, config.name)
        except RunFolderError:
            if machine.resume_round == -1:
                return False
            raise
        return True

    def resume_named(self) -> TrainResult:
        """Go on with the run of that name.

        Raises:
            MismatchedCheckpoint: the run that is there computes something else.
        """
        path = self.path
        saved, facts = read_run(path)
        require_run(path, facts, self.engine.name)
        before, given = saved.values_by_key(), self._written_out(facts["kind"])
        changed = with_values(given, left_open(before, given.values_by_key()))
        done = rounds_done(path, changed.machine.resume_round, facts["kind"])
        check_resumable(before, changed.values_by_key(), done)
        return replace(self, config=changed).go_on(path, facts)

    def begin(self, kind: str) -> TrainResult:
        with self._job(kind) as job:
            run, data = _agree(job, lambda: self._new(job, kind))
            return _run(Path(run.machine.runs_folder) / run.name, run, data, kind, job)

    def go_on(self, path: Path, facts: Mapping[str, Any]) -> TrainResult:
        """Go on in a run's folder, with a configuration that may."""
        with self._job(facts["kind"]) as job:
            run, data = _agree(job, lambda: self._again(job, facts["kind"]))
            root = RunData.of(*run.reading).root
            if data["digest"] != facts["data_digest"]:
                raise MismatchedCheckpoint(
                    f"{root}: is not the data that {path} was trained on; a run is "
                    "resumed with the same data"
                )
            require_tokenizer(root, data, tokenizer_digest(path / "tokenizer.json"))
            return _run(path, run, data, facts["kind"], job, existing=True)

    def _job(self, kind: str) -> AbstractContextManager[Job]:
        device = self.config.machine.device
        return open_job(device, kind, self.say, self.console, self.engine)

    def _written_out(self, kind: str) -> Config:
        """The configuration as a run keeps it, but for what is left open."""
        config = self.config
        model = architecture_of(config.inner.model, config.federation.vocabulary)
        config = config.with_model(model)
        if start := start_of_centralized(config.machine, config.mirror):
            config = config.but(start_path=start, machine={"centralized_run": None})

        def rows() -> list[int]:
            found = prepare(config, self.say)[0]
            return client_rows(RunData.of(*found.reading), found.federation.population)

        return count_epochs(config, rows, centralized=kind == CENTRALIZED)

    def _again(self, job: Job, kind: str) -> Prepared:
        """Find or make the data of a run that goes on."""
        config, clients = self.config, 0
        require_trackers(config.inner.loggers.tensorboard, config.wandb_setup)
        if kind == FEDERATED:
            config = config.but(inner={"max_steps": config.total_steps})
            clients = config.federation.cohort_size
        gpus = count_gpus(config.machine.device)
        here = counted(config.machine, _cores(job), gpus, clients)  # another machine may go on
        config = config.but(machine=here)
        config, data = prepare(config, job.say, _needed(job))
        try:
            check_tasks(config.scoring, config.inner, RunData.of(*config.reading))
        except DataError as error:  # a task may have changed: no reason not to go on
            job.warn(str(error))
        return config, data

    def _new(self, job: Job, kind: str) -> Prepared:
        """Resolve a new run's configuration and find or make its data."""
        config = self.config
        require_trackers(config.inner.loggers.tensorboard, config.wandb_setup)
        require_mirror(config.mirror)
        config = self._written_out(kind)
        start = checked_start(config.federation, config.inner, config.starts)
        if kind == FEDERATED:
            check_federation(config.averaging(), config.inner, config.scoring)
        run = resolve(
            config,
            cores=_cores(job),
            accelerator=count_gpus(config.machine.device),
            run_uuid=new_name(kind),
            centralized=kind == CENTRALIZED,
            elsewhere=job.trains_elsewhere,
        )
        refuse_existing(Path(run.machine.runs_folder) / run.name)  # before data is made
        if not job.trains_elsewhere:
            require_precision(run.inner, job.device)
        run, manifest = prepare(run, job.say, _needed(job))
        data = RunData.of(*run.reading)
        check_tasks(run.scoring, run.inner, data)
        job.warn(start.tokenizer_warning(data.tokenizer), start.layers_warning())
        if kind == FEDERATED:
            job.warn(*federation_warnings(run, data, job.trains_elsewhere))
        return run if job.trains_elsewhere else _fitted(run, kind, job), manifest


def require_run(path: Path, facts: Mapping[str, Any], engine: str) -> None:
    """Refuse to go on with what is no run that this engine can go on with."""
    if facts["kind"] == IMPORTED:
        raise RunFolderError(
            f"{path}: is an imported model, not a run; train from it with "
            f"pretrained_model_path={path}"
        )
    if facts["kind"] not in (FEDERATED, CENTRALIZED):
        raise RunFolderError(f"{path}: {ELSEWHERE}; the server goes on")
    if facts["kind"] == FEDERATED:
        require_engine(path, facts, engine)


def _cores(job: Job) -> int:
    """CPU cores of each process of the job."""
    return max(1, num_cores() // job.world.size)


def _needed(job: Job) -> Collection[int] | None:
    """Clients whose data must be on this machine; None: all."""
    return () if job.trains_elsewhere else None


def _fitted(run: Run, kind: str, job: Job) -> Run:
    """With as many rows to a pass as fit here."""
    trainers = Trainers.of(run, "run")
    if kind == CENTRALIZED:
        trainers = replace(trainers, devices=job.world.size, role=CENTRALIZED)
    return run.but(inner={"microbatch_rows": trainers.microbatch(job.device)})


Prepared = tuple[Config, dict[str, Any]]
"""A configuration that has its data, and the data's manifest."""


def _agree(job: Job, compute: Callable[[], Prepared]) -> tuple[Run, dict[str, Any]]:
    """Configuration and data manifest as the first process finds them, on all processes."""

    def plain() -> dict[str, Any]:
        config, data = compute()
        return {"config": config.model_dump(mode="json"), "data": data}

    agreed = from_first(job.world, plain)
    return checked(Run, agreed["config"]), agreed["data"]


def _run(
    path: Path,
    run: Run,
    data: Mapping[str, Any],
    kind: str,
    job: Job,
    existing: bool = False,
) -> TrainResult:
    """Train in a new or existing folder, then the baselines that the configuration asks for."""
    job.warn(
        schedule_warning(run.inner),
        outer_schedule_warning(run.federation) if kind == FEDERATED else None,
        idle_warning(run.inner, run.federation) if kind == FEDERATED else None,
        *_rows_notes(run, kind == CENTRALIZED, job),
        export_note(run.inner),
        layers_note(run.federation, kind == FEDERATED and job.trains_elsewhere),
        precision_warning(job.device, run.inner.precision),
    )
    try:
        with _folder(path, run, data, kind, job, existing) as folder:
            result = train_in(folder, run, job)
            if kind == FEDERATED:
                result = _with_baselines(folder, result, run, data, job)
            result = replace(result, history=History(read_lines(folder.metrics)))
            if job.world.is_first:
                write_summary(folder.path, result)
    except (Interrupted, RoundFailed) as error:
        error.args = (f"{error}; go on with: {how_to_go_on(path, read_facts(path))}",)
        raise
    return result


def _rows_notes(run: Run, centralized: bool, job: Job) -> list[str | None]:
    if job.trains_elsewhere or not job.world.is_first:
        return []  # whoever has the rows says so
    only = run.centralized.client if centralized else None
    clients = range(run.federation.population) if only is None else [only]
    batch, steps = run.inner.batch_rows, float(run.total_steps)
    if centralized:
        batch = -(-batch // len(clients))
    else:
        steps *= run.federation.cohort_size / run.federation.population
    return rows_notes(RunData.of(*run.reading), clients, batch, steps)


def _folder(
    path: Path, run: Run, data: Mapping[str, Any], kind: str, job: Job, existing: bool
) -> RunFolder:
    """The run's folder, made or opened and locked by the first process."""
    opened: list[RunFolder] = []

    engine = job.engine.facts() if kind == FEDERATED else {}
    plain = run.but(machine={"resume_round": None})  # it is said of this command only
    kept = plain.model_dump(mode="json")

    def open_or_create() -> None:
        if existing:
            require_ledger(run.federation, path, run.machine.resume_round)
            opened.append(reopened(path, run.machine.resume_round))
            opened[0].save_once_loaded(kept, engine)
            return
        copy = copy_of_run(run, data) if kind == FEDERATED else None
        here = RunData.of(*run.reading)
        tokens = tokenization_facts(encoder_of_data(here).facts, here.tokenizer)
        same = {"config_digest": digest(run.values_by_key()), "data_digest": data["digest"]}
        facts = same | tokens | engine
        opened.append(RunFolder.create(path, kept, kind, here.tokenizer, facts))
        if copy is not None:
            job.warn(*copy.notes)
            copy.write(opened[0])

    from_first(job.world, open_or_create)
    return opened[0] if opened else RunFolder(path, kind, locked=False)


def _with_baselines(
    folder: RunFolder, result: TrainResult, run: Run, data: Mapping[str, Any], job: Job
) -> TrainResult:
    """Train the data-parallel twin and the control in folders of their own, or go on with them."""
    for label, twin in baselines(run).items():
        path = folder.path / "baselines" / label
        rows = Trainers(twin.inner, twin.federation, role=CENTRALIZED).microbatch(job.device)
        twin = twin.but(inner={"microbatch_rows": rows})
        existing = (path / "run.json").exists()
        with _folder(path, twin, data, CENTRALIZED, job, existing) as home:
            trained = train_in(home, twin, job)
            write_summary(path, trained)
        result = replace(result, **{label: getattr(trained, label)})
    return result
