"""Relays are forks of the process that takes their tasks."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from pathlib import Path

import pytest

flwr = pytest.importorskip("flwr")

from flwr.supercore.constant import TaskType  # noqa: E402
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResultStatus  # noqa: E402

from photon.flower import superexec_process  # noqa: E402
from photon.flower.patience import Patience  # noqa: E402
from photon.flower.superexec_process import Relays  # noqa: E402


def spec(task: TaskType, *, is_silent: bool = False) -> ExecutionSpec:
    return ExecutionSpec(
        task_type=task, runtime_api_address="127.0.0.1:1", token="known to nobody else",
        insecure=True, root_certificates_path=None, runtime_dependency_install=False,
        parent_pid=None, suppress_output=is_silent, task_id=1,
    )  # fmt: skip


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a relay says of itself."""
    path = tmp_path / "told.json"

    def tell() -> None:
        os.write(1, b"said aloud\n")
        line = Path("/proc/self/cmdline").read_text()
        new = path.with_suffix(".new")
        new.write_text(json.dumps({"parent": os.getppid(), "argv": sys.argv, "line": line}))
        new.rename(path)

    monkeypatch.setattr(superexec_process, "COMMANDS", {TaskType.CLIENT_APP: tell})
    return path


def run(relays: Relays, task: TaskType, *, is_silent: bool = False) -> LaunchResultStatus:
    result = relays.launch(spec(task, is_silent=is_silent))
    for child in multiprocessing.active_children():
        child.join(20.0)
    return result.status


def test_that_a_relay_is_a_fork_which_gets_its_task(told: Path) -> None:
    assert run(Relays(os.getppid(), Patience()), TaskType.CLIENT_APP) == LaunchResultStatus.ACCEPTED
    found = json.loads(told.read_text())
    assert found["parent"] == os.getpid()
    assert found["argv"] == [
        "flwr-clientapp", "--runtime-api-address", "127.0.0.1:1", "--token",
        "known to nobody else", "--insecure", "--parent-pid", str(os.getpid()),
    ]  # fmt: skip


def test_that_its_token_is_not_on_a_command_line(told: Path) -> None:
    run(Relays(os.getppid(), Patience()), TaskType.CLIENT_APP)
    assert "nobody else" not in json.loads(told.read_text())["line"]


@pytest.mark.parametrize("is_silent", [True, False])
def test_that_a_relay_is_silent_where_flower_wants_it(
    told: Path, capfd: pytest.CaptureFixture[str], is_silent: bool
) -> None:
    run(Relays(os.getppid(), Patience()), TaskType.CLIENT_APP, is_silent=is_silent)
    assert told.exists()
    assert capfd.readouterr().out == ("" if is_silent else "said aloud\n")


def test_that_no_other_task_of_flowers_is_run(told: Path) -> None:
    status = run(Relays(os.getppid(), Patience()), TaskType.SIMULATION)
    assert status == LaunchResultStatus.FAILED
    assert not told.exists()


def test_that_both_tasks_have_flowers_own_commands() -> None:
    assert set(superexec_process.COMMANDS) == {TaskType.CLIENT_APP, TaskType.SERVER_APP}
    assert all(
        command.__module__.startswith("flwr.") for command in superexec_process.COMMANDS.values()
    )


def test_that_it_asks_again_soon_after_a_task_and_after_a_relay_has_ended(
    told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    patience = Patience()
    monkeypatch.setattr(patience, "something_happened", lambda: happened.append("once"))
    relays = Relays(os.getppid(), patience)
    relays.reconcile()
    assert not happened
    run(relays, TaskType.CLIENT_APP)
    assert len(happened) == 1
    relays._running = 1
    relays.reconcile()
    relays.reconcile()
    assert len(happened) == 2


def test_that_it_ends_with_the_process_that_has_started_it() -> None:
    with pytest.raises(SystemExit):
        Relays(os.getpid(), Patience()).reconcile()
