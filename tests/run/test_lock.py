"""Who holds a run's folder is signalled, and nobody else."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from photon.config import Config
from photon.errors import RunFolderError, StorageError
from photon.files import try_lock
from photon.machine.owner import Owner, start_time
from photon.run.kinds import FEDERATED
from photon.run.listing import run_status, stop_run
from photon.run.run_folder import RunFolder, held_by


@pytest.fixture
def run(smoke: Callable[..., Config], tmp_path: Path) -> Path:
    folder, tokenizer = tmp_path / "r", tmp_path / "tokenizer.json"
    tokenizer.touch()
    plain = smoke().model_dump(mode="json")
    RunFolder.create(folder, plain, FEDERATED, tokenizer, {}).close()
    return folder


@pytest.fixture
def held(run: Path) -> Iterator[Path]:
    descriptor = os.open(run / "lock", os.O_RDWR)
    assert try_lock(descriptor)
    yield run
    os.close(descriptor)


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_the_holder_leaves_its_name(run):
    assert held_by(run) == (False, None)
    with RunFolder.open(run):
        assert held_by(run) == (True, Owner.here())
        assert run_status(run).state == "running"


def test_a_full_disk_leaves_nobody_at_the_run(run, monkeypatch):
    """A notebook that has freed some space goes on in the same process."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(StorageError, match=r"lock: cannot write \(No space left on device\)"):
            RunFolder.open(run)
    assert held_by(run) == (False, None)
    RunFolder.open(run).close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"started": "12"}, "process {pid}, which ran it, is gone, and its workers have not"),
        ({"place": "x/1", "host": "far"}, "is run by process {pid} on far, another machine"),
    ],
)
def test_a_stranger_of_the_holders_number_is_let_alone(held, stranger, change, message):
    owner = Owner(stranger.pid, start_time(stranger.pid), Owner.here().place, "here")
    (held / "lock").write_bytes(replace(owner, **change).line)
    with pytest.raises(RunFolderError, match=message.format(pid=stranger.pid)):
        stop_run(held, 0)
    with pytest.raises(RunFolderError, match=message.format(pid=stranger.pid)):
        come_to(held)
    assert stranger.poll() is None


def come_to(folder: Path) -> None:
    """As a process that comes to a folder whose workers have been waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("photon.run.run_folder.LOCK_WAIT_SECONDS", 0.0)
        RunFolder.open(folder)


@pytest.mark.parametrize("line", ["", "{pid}", "[1]", '{{"pid": {pid}}}', "nonsense"])
def test_a_lock_that_says_something_else_names_nobody(held, stranger, line):
    (held / "lock").write_text(line.format(pid=stranger.pid))
    with pytest.raises(RunFolderError, match="has not left its name"):
        stop_run(held, 0)
    assert stranger.poll() is None


@pytest.mark.parametrize("pid", [0, -1, True, "1"])
def test_a_number_of_no_process_is_none(pid):
    assert Owner.of_line(replace(Owner.here(), pid=pid).line) is None


@pytest.mark.parametrize(
    ("error", "message"),
    [(ProcessLookupError, "has just ended"), (PermissionError, "is another user's")],
)
def test_what_cannot_be_signalled_is_said(held, monkeypatch, error, message):
    def refuse(pid: int, number: int) -> None:
        raise error

    (held / "lock").write_bytes(Owner.here().line)
    monkeypatch.setattr(os, "kill", refuse)
    with pytest.raises(RunFolderError, match=message):
        stop_run(held, 0)
