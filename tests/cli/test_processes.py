"""What the processes of a `torchrun` job say: what all know once, and each its own errors."""

from __future__ import annotations

import pytest
import torch

from photon.cli import main
from photon.cli.main import run
from photon.errors import DeviceError, Interrupted
from photon.machine.process_group import process_group
from photon.run import listing


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds for which it was waited."""
    seconds: list[float] = []
    monkeypatch.setattr(main.time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch, waited: list[float]) -> None:
    """This process is the second of a job, on a machine with one GPU."""
    for key, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


def test_a_process_without_a_gpu_says_so(second, capsys, monkeypatch, tmp_path):
    """It is the only one that knows."""

    def join(*_) -> None:
        with process_group("cuda"):
            raise AssertionError

    monkeypatch.setattr(listing, "find_runs", join)
    assert run(["runs", str(tmp_path)]) == DeviceError.exit_code
    told = capsys.readouterr().err
    assert told.startswith("photon: process 1: torchrun started a process number 1 here, but Py")
    assert told.count("\n") == 1


def test_what_all_know_is_left_to_the_first(second, capsys, monkeypatch, tmp_path):
    def end(*_) -> None:
        raise Interrupted(15, "stopped")

    monkeypatch.setattr(listing, "find_runs", end)
    assert run(["runs", str(tmp_path)]) == 143
    assert run(["no-such-command"]) == 2
    assert not capsys.readouterr().err
    monkeypatch.setenv("RANK", "0")
    assert run(["runs", str(tmp_path)]) == 143
    assert capsys.readouterr().err == "photon: stopped\n"


@pytest.mark.parametrize("local", ["0", "1"])
def test_the_first_of_a_machine_speaks_first(second, waited, capsys, monkeypatch, local):
    """Each of 64 processes said it; who ended first in silence had the first ended by torchrun."""
    monkeypatch.setenv("LOCAL_RANK", local)
    monkeypatch.setattr(main, "_write", lambda message: waited.append(0.0))
    assert run(["config", "no.such_key=1"]) == 2
    assert waited == [main.FIRST_SECONDS, 0.0][int(local == "0") :]
    waited.clear()
    assert run(["no-such-command"]) == 2
    assert waited == [main.FIRST_SECONDS][int(local == "0") :]
