"""Runs a command that must not outlive its parent: `python -m photon.machine.guard COMMAND...`.

Standard input is a pipe from the parent. When it closes (the parent has ended, kill -9 included)
the command's process group gets SIGTERM, and SIGKILL if that is not enough. What it has started in
groups of their own ends with it, where the kernel lets a process adopt orphans (Linux).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

GRACE_SECONDS = 5.0


class Guarded:
    """A command under guard.

    Args:
        log: takes its output.
    """

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "photon.machine.guard", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
            )

    @property
    def returncode(self) -> int | None:
        """Exit code of the command; None while it runs."""
        return self._process.poll()

    def close(self) -> None:
        """End the command and all that it has started; waits for it."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=2 * GRACE_SECONDS + 5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main(command: list[str]) -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _adopt_orphans()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_default_signals
    )
    while process.poll() is None:
        if select.select([sys.stdin], [], [], 0.2)[0] and not os.read(0, 1):
            _end(process)
    _signal_group(process.pid, signal.SIGKILL)
    _end_adopted()
    return process.returncode


def _adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends: prctl PR_SET_CHILD_SUBREAPER."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def _end_adopted() -> None:
    """Kill the children that are left, and theirs, which come here in turn."""
    while children := _children():
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def _children() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(path.parent.name))
    return found


def _default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _end(process: subprocess.Popen[bytes]) -> None:
    _signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
