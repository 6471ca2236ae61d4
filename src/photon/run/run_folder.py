"""A run's folder: its configuration, its lock, its metrics.

config.json      the resolved configuration
run.json         name, kind, digests, versions
tokenizer.json   copy, so that the checkpoints speak for themselves
checkpoints/     committed rounds (federated) or steps (centralised)
clients/         states of the clients hosted here
metrics.jsonl    one line per round or interval
chain.jsonl      one link per committed round, see `chain` (of a node: receipts.jsonl)
summary.json     the result
tensorboard/     event files, if llm_config.loggers.tensorboard
wandb/           what W&B keeps here, if use_wandb
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from photon.config.compose import ConfigT, checked
from photon.config.schema import Config
from photon.data.manifest import write_json
from photon.errors import (
    ConfigError,
    CorruptCheckpoint,
    RunFolderError,
    StorageError,
    storing,
)
from photon.files import try_lock
from photon.machine.owner import Owner
from photon.run.going_on import how_to_go_on
from photon.run.kinds import FEDERATED

NUMBERED = re.compile(r"(round|step)_\d+")
"""Names of checkpoints that training goes on from."""
LOCK_WAIT_SECONDS = 30.0
"""How long to wait for the workers of a killed process to notice that it is gone."""
OWNER_BYTES = 4096
"""More than a lock says."""
_MEND = (
    "put it back from a copy of the run, or use the version of photon that wrote it; or begin a "
    "new run with pretrained_model_path and one of its checkpoints"
)

Tree = Mapping[str, Any]
"""A configuration, plain."""


class RunFolder:
    """An open run folder; holds its lock until closed or until the process and its workers end.

    Args:
        locked: False for a process of a job whose first process holds the lock.
    """

    def __init__(self, path: Path, kind: str, *, locked: bool = True) -> None:
        self.path, self.kind = path, kind
        self.lock_fd = _lock(path) if locked else None
        self._waiting: tuple[Tree, Mapping[str, Any]] | None = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def clients(self) -> Path:
        return self.path / "clients"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @classmethod
    def create(
        cls, path: Path, config: Tree, kind: str, tokenizer: Path, facts: Mapping[str, Any]
    ) -> RunFolder:
        """Start a run in a new folder.

        Args:
            config: plain.

        Raises:
            RunFolderError: the folder already holds a run.
            StorageError: it cannot be written.
        """
        refuse_existing(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as unlock_on_failure:
                folder = cls(path, kind)
                unlock_on_failure.callback(folder.close)
                refuse_existing(path)  # somebody else may have been quicker
                _clear_begun_copy(path)
                shutil.copyfile(tokenizer, path / "tokenizer.json")
                folder.save_config(config)
                write_json(path / "run.json", {"kind": kind, **_versions(), **facts})
                unlock_on_failure.pop_all()
        except OSError as error:
            raise StorageError(
                f"{path}: cannot create the run folder ({error.strerror})"
            ) from error
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open an existing run.

        Raises:
            RunFolderError: no run there, or another process is at it.
            CorruptCheckpoint: its configuration is unreadable.
        """
        return cls(path, read_run(path)[1]["kind"])

    def save_config(self, config: Tree) -> None:
        write_json(self.path / "config.json", dict(config))

    def save_once_loaded(self, config: Tree, facts: Mapping[str, Any]) -> None:
        """Save these when `loaded` says so: a run that cannot go on stays as it was."""
        self._waiting = config, facts

    def loaded(self) -> None:
        """The state that the run goes on from is read and verified: save what waits for it."""
        if self._waiting is not None:
            config, facts = self._waiting
            self._waiting = None
            self.save_config(config)
            self.save_facts(facts)

    def save_facts(self, facts: Mapping[str, Any]) -> None:
        """Add to the run's facts, or change some."""
        if (known := read_facts(self.path)) != (changed := known | dict(facts)):
            write_json(self.path / "run.json", changed)

    def facts(self) -> dict[str, Any]:
        return read_facts(self.path)

    def close(self) -> None:
        if self.lock_fd is not None:
            os.close(self.lock_fd)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def holds_run(path: Path) -> bool:
    """Whether a run lies there; a name that no file can have is that of none."""
    try:
        return (path / "run.json").exists()
    except OSError:
        return False


REMAINS = ("checkpoints", "metrics.jsonl", "chain.jsonl")
"""What a run has beside run.json, once it has done something."""


def refuse_existing(path: Path) -> None:
    """Raises:
    RunFolderError: a run lies there, or what is left of one that has begun.
    """
    if is_begun_copy(path):
        return
    left = next((name for name in REMAINS if (path / name).exists()), None)
    if left is not None and not holds_run(path):
        raise RunFolderError(
            f"{path}: has the {left} of a run, and no run.json; put that back, or choose another "
            "run_uuid"
        )
    if holds_run(path):
        raise RunFolderError(
            f"{path}: already holds a run; go on with `{how_to_go_on(path, read_facts(path))}` or "
            "choose another run_uuid"
        )


def may_go_on(path: Path) -> bool:
    """Whether a run lies there that has something to go on with."""
    return holds_run(path) and not is_begun_copy(path)


def is_begun_copy(path: Path) -> bool:
    """Whether a run lies there that was to begin with a copy of another, and never held all of it:
    its first checkpoint is the last file of that.
    """
    done = (path / name for name in ("chain.jsonl", "summary.json"))
    if not holds_run(path) or list_checkpoints(path / "checkpoints") or any(map(Path.exists, done)):
        return False
    config, facts = read_run(path)
    return facts["kind"] == FEDERATED and config.machine.copied_run is not None


def _clear_begun_copy(path: Path) -> None:
    """Delete it, run.json last: until then it is known for what it is."""
    if is_begun_copy(path):
        for name in ("clients", "checkpoints"):
            shutil.rmtree(path / name, ignore_errors=True)
        for name in ("metrics.jsonl", "run.json"):
            (path / name).unlink(missing_ok=True)


def read_run(path: Path) -> tuple[Config, dict[str, Any]]:
    """Configuration and facts of a run, without locking it.

    Raises:
        RunFolderError: no run there.
        CorruptCheckpoint: a file of it is unreadable.
    """
    if not holds_run(path):
        raise RunFolderError(
            f"{path}: no run here (no run.json); `photon runs` lists those there are"
        )
    return read_config(path, Config), read_facts(path)


def read_config(path: Path, kind: type[ConfigT]) -> ConfigT:
    """What config.json says, as the configuration that it is read as.

    Raises:
        CorruptCheckpoint: it is unreadable.
        ConfigError: it is not of that kind.
    """
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it has no keys")
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"{path}: unreadable config.json ({error}); {_MEND}") from error
    try:
        return checked(kind, config)
    except ConfigError as error:
        raise ConfigError(f"{path / 'config.json'}: {error}; {_MEND}") from error


def read_facts(path: Path) -> dict[str, Any]:
    """What run.json says.

    Raises:
        CorruptCheckpoint: it is unreadable.
    """
    try:
        facts = json.loads((path / "run.json").read_text(encoding="utf-8"))
        if not isinstance(facts, dict) or not isinstance(facts.get("kind"), str):
            raise ValueError("it does not say what kind of a run this is")
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"{path}: unreadable run.json ({error}); {_MEND}") from error
    return facts


def list_checkpoints(folder: Path) -> list[Path]:
    """Manifests of a checkpoint folder, oldest first."""
    found = [path for path in folder.glob("*.json") if NUMBERED.fullmatch(path.stem)]
    return sorted(found, key=number_of)


def number_of(path: Path) -> int:
    """The round or step of a manifest that `list_checkpoints` found."""
    return int(path.stem.split("_")[1])


def _lock(path: Path) -> int:
    """Take the folder's lock: an open file that workers inherit, so it lasts as long as they do."""
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(path, descriptor)
    except BaseException:
        os.close(descriptor)  # or this process would hold it for as long as it lives
        raise
    return descriptor


def _take(path: Path, descriptor: int) -> None:
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while not try_lock(descriptor):
        owner = _owner(descriptor)
        if time.monotonic() > deadline or (owner is not None and owner.is_alive):
            raise RunFolderError(
                why_not_to_stop(path, owner)
                or f"{path}: another process is running this run; `photon stop {path}` ends it"
            )
        time.sleep(0.1)
    line = Owner.here().line
    with storing(path / "lock"):
        os.pwrite(descriptor, line, 0)
        os.ftruncate(descriptor, len(line))


def is_held(path: Path) -> bool:
    """Whether a process is at a run, or workers of one that is gone."""
    return held_by(path)[0]


def held_by(path: Path) -> tuple[bool, Owner | None]:
    """Whether a run's folder is held, and by whom, where that is known."""
    try:
        descriptor = os.open(path / "lock", os.O_RDONLY)
    except OSError:
        return False, None
    try:
        if try_lock(descriptor, shared=True):
            return False, None
        return True, _owner(descriptor)
    finally:
        os.close(descriptor)


def _owner(descriptor: int) -> Owner | None:
    return Owner.of_line(os.pread(descriptor, OWNER_BYTES, 0).partition(b"\n")[0])


def why_not_to_stop(path: Path, owner: Owner | None) -> str | None:
    """Why nobody can be signalled here who holds a run's folder; None: its owner can."""
    if owner is None:
        return (
            f"{path}: the process that holds it has not left its name, as one of an older Photon; "
            f"`fuser {path / 'lock'}` says on its machine which it is"
        )
    if not owner.is_here:
        return (
            f"{path}: is run by process {owner.pid} on {owner.host}, another machine or container "
            "than this one; stop it there"
        )
    if not owner.is_alive:
        return (
            f"{path}: process {owner.pid}, which ran it, is gone, and its workers have not ended "
            f"yet; wait for them, or end those that `fuser {path / 'lock'}` names"
        )
    return None


def _versions() -> dict[str, Any]:
    import numpy
    import torch

    import photon

    return {
        "photon": photon.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
