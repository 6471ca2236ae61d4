"""Relays are forks of the process that takes their tasks."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

flwr = pytest.importorskip("flwr")

from flwr.supercore.constant import TaskType  # noqa: E402
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResultStatus  # noqa: E402

from photon.flower import superexec_process  # noqa: E402
from photon.flower.patience import Patience  # noqa: E402
from photon.flower.superexec_process import Relays  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


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
    assert run(Relays(Patience()), TaskType.CLIENT_APP) == LaunchResultStatus.ACCEPTED
    found = json.loads(told.read_text())
    assert found["parent"] == os.getpid()
    assert found["argv"] == [
        "flwr-clientapp", "--runtime-api-address", "127.0.0.1:1", "--token",
        "known to nobody else", "--insecure", "--parent-pid", str(os.getpid()),
    ]  # fmt: skip


def test_that_its_token_is_not_on_a_command_line(told: Path) -> None:
    run(Relays(Patience()), TaskType.CLIENT_APP)
    assert "nobody else" not in json.loads(told.read_text())["line"]


@pytest.mark.parametrize("is_silent", [True, False])
def test_that_a_relay_is_silent_where_flower_wants_it(
    told: Path, capfd: pytest.CaptureFixture[str], is_silent: bool
) -> None:
    run(Relays(Patience()), TaskType.CLIENT_APP, is_silent=is_silent)
    assert told.exists()
    assert capfd.readouterr().out == ("" if is_silent else "said aloud\n")


def test_that_no_other_task_of_flowers_is_run(told: Path) -> None:
    status = run(Relays(Patience()), TaskType.SIMULATION)
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
    relays = Relays(patience)
    relays.reconcile()
    assert not happened
    run(relays, TaskType.CLIENT_APP)
    assert len(happened) == 1
    relays.reconcile()
    relays.reconcile()
    assert len(happened) == 2


STARTER = """
import sys, time
from pathlib import Path
from photon.flower import superexec

superexec.LEAVE_SECONDS = 0.1
superexec.start_superexec(Path(sys.argv[1]), 1)
time.sleep(60)
"""


def test_that_neither_outlives_the_other(tmp_path: Path) -> None:
    """Else a node would take messages that nobody answers."""
    with subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)]) as starter:
        os.kill(child_of(starter.pid), signal.SIGKILL)
        assert starter.wait(20.0) == -signal.SIGTERM
    with subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)]) as starter:
        child = child_of(starter.pid)
        time.sleep(5.0)  # it tries again and again to reach its port by then
        starter.kill()
    deadline = time.monotonic() + 30.0
    while Path(f"/proc/{child}/cmdline").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}/cmdline").exists()


def child_of(parent: int) -> int:
    """The only child of a process, once it is there."""
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.02)
    raise AssertionError("no child")
