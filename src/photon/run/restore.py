"""Finding the runs and rounds that a configuration names, and going on from one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from photon.config.between.resume import LENGTH_OF, apply_resume_overrides
from photon.config.schema import Bucket, Config, Machine
from photon.errors import CheckpointError, CorruptCheckpoint, RunFolderError
from photon.run import artifact, checkpoint
from photon.run.kinds import FEDERATED
from photon.run.mirror import fetch_run
from photon.run.run_folder import RunFolder, holds_run, read_run

NEWEST = -1
"""Of `photon.resume_round`: whatever is there, and nothing where a run ended before its first."""


def find_run(machine: Machine, mirror: Bucket, name: str) -> Path:
    """The folder of a run that a configuration names: a folder, a name below `saving_path`, or a
    run in the mirror, which is brought here.

    Raises:
        RunFolderError: in none of these places.
    """
    saving = Path(machine.runs_folder)
    for path in (saving / name, Path(name)):
        if holds_run(path):
            return path
    if mirror.bucket and Path(name).name == name:
        saving.mkdir(parents=True, exist_ok=True)
        if fetch_run(saving / name, mirror, name):
            return saving / name
    raise RunFolderError(f"{name}: no such run folder, and no run of that name in {saving}")


def checkpoint_of_round(folder: Path, number: int, key: str = "photon.resume_round") -> Path:
    """The manifest of a round or step, or, for a negative number, the newest but so many.

    Args:
        key: whose value the number is.

    Raises:
        CheckpointError: it is not kept; those that are, are named.
    """
    found = checkpoint.list_checkpoints(folder)
    by_round = {checkpoint.number_of(path): path for path in found}
    if number < 0 and -number <= len(found):
        return found[number]
    if number in by_round:
        return by_round[number]
    kept = ", ".join(map(str, by_round)) or "none"
    raise CheckpointError(f"{key}={number}: not in {folder}, which keeps {kept}")


def rounds_done(run: Path, wanted: int | None, kind: str) -> dict[str, int]:
    """What is behind a run: the key of its length -> rounds or steps.

    Args:
        wanted: the round to go back to (`photon.resume_round`), if one is named.

    Raises:
        CheckpointError: that round is not kept.
    """
    key, folder = LENGTH_OF[kind], run / "checkpoints"
    if wanted in (None, NEWEST) and not checkpoint.list_checkpoints(folder):
        return {key: 0}
    found = checkpoint_of_round(folder, -1 if wanted is None else wanted)
    config = read_run(run)[0]
    if kind == FEDERATED and config.federation.is_async:  # its checkpoints are merges
        return {key: -(-checkpoint.steps_done(found) // config.inner.local_steps)}
    return {key: checkpoint.number_of(found)}


def config_to_go_on(run: Path, overrides: Sequence[str]) -> Config:
    """The configuration with which a run goes on.

    Raises:
        RunFolderError: no run there.
        MismatchedCheckpoint: an override would change the mathematics.
    """
    saved, facts = read_run(run)
    return apply_resume_overrides(
        saved,
        overrides,
        lambda changed: rounds_done(run, changed.machine.resume_round, facts["kind"]),
    )


def reopened(path: Path, resume_round: int | None) -> RunFolder:
    """The folder of a run that goes on, from a round that is named; it is let go if it cannot."""
    with ExitStack() as on_failure:
        folder = RunFolder.open(path)
        on_failure.callback(folder.close)
        if resume_round is not None:
            rewind(path, resume_round)
        on_failure.pop_all()
    return folder


def rewind(run: Path, number: int) -> None:
    """Make a round the last one of a run; what came after it is deleted.

    Raises:
        CheckpointError: the round is not kept.
        CorruptCheckpoint: it is damaged; nothing is deleted.
    """
    folder = run / "checkpoints"
    if number == NEWEST:
        return
    target = checkpoint_of_round(folder, number)
    last = checkpoint.number_of(target)
    later = [p for p in checkpoint.list_checkpoints(folder) if checkpoint.number_of(p) > last]
    if later:
        try:
            checkpoint.verified(target)
        except CorruptCheckpoint as error:
            raise CorruptCheckpoint(f"{error}; later rounds are kept") from error
    for path in reversed(later):  # cut off, it has left no later one without those before it
        artifact.remove(folder, path.stem)


def start_of_centralized(machine: Machine, mirror: Bucket) -> str | None:
    """The checkpoint that `photon.restore_cent_run_uuid` names; None if it names none.

    Raises:
        RunFolderError, CheckpointError: it is not there.
    """
    step = machine.centralized_step
    if machine.centralized_run is None:
        return None
    folder = find_run(machine, mirror, machine.centralized_run) / "checkpoints"
    if step is None:
        return str(checkpoint.newest_checkpoint(folder))
    return str(checkpoint_of_round(folder, step, "photon.restore_cent_run_batches"))
