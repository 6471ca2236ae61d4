"""What a guarded command has started ends with it, or with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forked import is_alive
from photon.machine.guard import Guarded

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
GRANDCHILD = "import subprocess, sys, time; p = subprocess.Popen(['sleep', '300'], " \
    "start_new_session=True); print(p.pid, flush=True); time.sleep(300)"  # fmt: skip


def wait_for(what, seconds: float = 20.0):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def pid_in(log: Path) -> int:
    return int(wait_for(lambda: log.exists() and log.read_text().strip()))


def test_closing_ends_children_in_sessions_of_their_own(tmp_path):
    guarded = Guarded([sys.executable, "-c", GRANDCHILD], tmp_path / "log", os.environ)
    pid = pid_in(tmp_path / "log")
    assert is_alive(pid)
    guarded.close()
    assert not is_alive(pid)


def test_a_killed_command_leaves_no_orphan(tmp_path):
    guarded = Guarded([sys.executable, "-c", GRANDCHILD], tmp_path / "log", os.environ)
    pid = pid_in(tmp_path / "log")
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    wait_for(lambda: not is_alive(pid))
    wait_for(lambda: guarded.returncode is not None)
    guarded.close()
    assert not is_alive(pid)


def test_a_killed_parent_leaves_no_orphan(tmp_path):
    code = (
        "import os, sys, time; from pathlib import Path; from photon.machine.guard import Guarded; "
        f"g = Guarded([sys.executable, '-c', {GRANDCHILD!r}], Path({str(tmp_path / 'log')!r}), "
        "os.environ); time.sleep(300)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    pid = pid_in(tmp_path / "log")
    parent.kill()
    parent.wait()
    wait_for(lambda: not is_alive(pid))
    assert not is_alive(pid)
