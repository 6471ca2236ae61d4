"""Going back to a round, and beginning a run with a copy of another."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from photon.config.schema import Config
from photon.errors import CheckpointError, RunFolderError
from photon.runtime import artifact, checkpoint
from photon.runtime.job import FEDERATED
from photon.runtime.mirror import fetch_run
from photon.runtime.run_folder import RunFolder, read_run
from photon.runtime.trackers import copy_lines


def find_run(config: Config, name: str) -> Path:
    """The folder of a run that a configuration names: a folder, a name below `saving_path`, or a
    run in the mirror, which is brought here.

    Raises:
        RunFolderError: in none of these places.
    """
    saving = Path(config.photon.saving_path)
    for path in (saving / name, Path(name)):
        if (path / "run.json").exists():
            return path
    if config.s3_comm_config.bucket_name and Path(name).name == name:
        saving.mkdir(parents=True, exist_ok=True)
        if fetch_run(saving / name, config.s3_comm_config, name):
            return saving / name
    raise RunFolderError(f"{name}: no such run folder, and no run of that name in {saving}")


def checkpoint_of_round(folder: Path, number: int) -> Path:
    """The manifest of a round, or, for a negative number, the newest but so many.

    Raises:
        CheckpointError: it is not kept; those that are, are named.
    """
    found = checkpoint.list_checkpoints(folder)
    by_round = {int(path.stem.split("_")[1]): path for path in found}
    if number < 0 and -number <= len(found):
        return found[number]
    if number in by_round:
        return by_round[number]
    kept = ", ".join(map(str, by_round)) or "none"
    raise CheckpointError(f"photon.resume_round={number}: not in {folder}, which keeps {kept}")


def rewind(run: Path, number: int) -> None:
    """Make a round the last one of a run; what came after it is deleted.

    Raises:
        CheckpointError: the round is not kept.
    """
    folder = run / "checkpoints"
    target = checkpoint_of_round(folder, number)
    for path in checkpoint.list_checkpoints(folder):
        if path.stem > target.stem:
            artifact.remove(folder, path.stem)


def begin_with_copy(config: Config, folder: RunFolder) -> None:
    """Put the state of `photon.restore_run_uuid` into a new run's folder; does nothing without.

    Raises:
        RunFolderError: no such run, or no federated one.
        CheckpointError: not its round of `photon.resume_round`.
    """
    name = config.photon.restore_run_uuid
    if name is None:
        return
    source = find_run(config, name)
    if read_run(source)[1]["kind"] != FEDERATED:
        raise RunFolderError(
            f"photon.restore_run_uuid={name}: is no federated run; for a centralised one there is "
            "photon.restore_cent_run_uuid"
        )
    wanted = -1 if config.photon.resume_round is None else config.photon.resume_round
    state = checkpoint.load_server_state(checkpoint_of_round(source / "checkpoints", wanted))
    if config.photon.copy_client_checkpoints and (source / "clients").is_dir():
        shutil.copytree(source / "clients", folder.clients, dirs_exist_ok=True)
    else:
        state = replace(state, last_accepted={})
    copy_lines(source / "metrics.jsonl", folder.metrics, "round", state.round)
    checkpoint.save_server_state(folder.checkpoints, state)


def start_of_centralized(config: Config) -> str | None:
    """The checkpoint that `photon.restore_cent_run_uuid` names; None if it names none.

    Raises:
        RunFolderError, CheckpointError: it is not there.
    """
    photon = config.photon
    if photon.restore_cent_run_uuid is None:
        return None
    folder = find_run(config, photon.restore_cent_run_uuid) / "checkpoints"
    if photon.restore_cent_run_batches is None:
        return str(checkpoint.newest_checkpoint(folder))
    path = folder / f"step_{photon.restore_cent_run_batches:06d}.json"
    if not path.exists():
        steps = [p.stem.split("_")[1].lstrip("0") for p in checkpoint.list_checkpoints(folder)]
        raise CheckpointError(
            f"photon.restore_cent_run_batches={photon.restore_cent_run_batches}: not in {folder}, "
            f"which keeps {', '.join(steps) or 'none'}"
        )
    return str(path)
