"""Flower's SuperExec, whose relays are forks of it: what they import is there already.

    python -m photon.flower.superexec_process PORT SECRET PARENT

A process of Flower's that is started anew takes seconds to import Flower, and there is one for each
message that a node gets.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec import run_superexec
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult, SubprocessExecutor
from flwr.supercore.utils import disable_process_dumping
from flwr.superlink.cli import flwr_serverapp
from flwr.supernode.cli import flwr_clientapp
from flwr.supernode.runtime import run_clientapp

from photon.flower.patience import Patience, pulling_soon

COMMANDS = {TaskType.CLIENT_APP: flwr_clientapp, TaskType.SERVER_APP: flwr_serverapp}
LOOK_SECONDS = 0.5
FORK = multiprocessing.get_context("fork")  # no thread runs here that a fork could leave behind


class Relays(SubprocessExecutor):
    """Starts relays as forks of this process."""

    def __init__(self, patience: Patience) -> None:
        self._patience, self._running = patience, 0

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        if spec.task_type not in COMMANDS:
            return LaunchResult.failed(f"a relay is no {spec.task_type}")
        options = [
            "--runtime-api-address", spec.runtime_api_address, "--token", spec.token,
            "--insecure", "--parent-pid", str(os.getpid()),
        ]  # fmt: skip
        arguments = (spec.task_type, options, spec.suppress_output)
        FORK.Process(target=relay, args=arguments, daemon=True).start()
        self._running += 1
        self._patience.something_happened()
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Called before each request for work."""
        running = len(multiprocessing.active_children())
        if running != self._running:
            self._patience.something_happened()
        self._running = running


def relay(task: TaskType, options: Sequence[str], is_silent: bool) -> None:
    """Be the process of Flower that does a task."""
    if is_silent:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    sys.argv = [str(task), *options]
    COMMANDS[task]()


def end_with(parent: int) -> None:
    """End this process soon after the one that has started it, whatever it is at.

    By a timer: Flower's own thread for that would be lost in a fork.
    """

    def look(*_: object) -> None:
        if os.getppid() != parent:
            raise SystemExit

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, LOOK_SECONDS, LOOK_SECONDS)


def main(port: int, secret: Path, parent: int) -> None:
    disable_process_dumping(strict=False)
    end_with(parent)
    patience = Patience()
    pull = run_clientapp.pull_and_inflate_object_from_tree
    run_clientapp.pull_and_inflate_object_from_tree = pulling_soon(pull)
    run_superexec.time = patience  # pyright: ignore[reportAttributeAccessIssue]
    run_superexec.get_executor = lambda *_, **__: Relays(patience)
    run_superexec.run_superexec(
        f"127.0.0.1:{port}", insecure=True,
        superexec_auth_secret=load_superexec_auth_secret(secret_file=str(secret)),
    )  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
