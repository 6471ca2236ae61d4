"""Processes of their own without the seconds that Python and PyTorch take to start: each is forked
from one that has loaded both, and has run nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

LOADED = ["torch", "torch._dynamo", "torch.optim", "photon.cli.train",
          "photon.experiment.experiment", "photon.hub.warm_start", "photon.node.service",
          "photon.node.worker", "photon.node.client_host", "photon.node.team", "hydra",
          "omegaconf"]  # fmt: skip
"""The compiler, too: torch imports it, in a second, when the first optimizer is made."""

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(LOADED)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped has ended. Needs /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Forked:
    """A function in a process of its own, with what a `subprocess.Popen` is asked for.

    Args:
        log: takes what it prints; None: it goes where that of all goes.
        environment: beside that of this process.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        log: Path | None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._process = _CONTEXT.Process(
            target=_run, args=(function, arguments, log, dict(environment or {}))
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises: `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkedWorker(Forked):
    """`photon.node.worker`, in place of `subprocess.Popen(command, ...)`."""

    def __init__(self, command: list[str], *, pass_fds: Sequence[int], env: dict[str, str], **_):
        number, *rest = command[3:]
        own = [DupFd(one) for one in pass_fds]
        assert int(number) == pass_fds[0]
        super().__init__(_work, own, rest, log=None, environment=env)


def _work(descriptors: list[Any], rest: list[str]) -> int:
    from photon.node import worker

    first, *_ = [one.detach() for one in descriptors]  # the others stay open
    return worker.main([str(first), *rest])


def _run(
    function: Callable[..., Any], arguments: tuple, log: Path | None, environment: dict[str, str]
) -> None:
    os.setsid()
    if log is not None:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
    os.environ.update(environment)
    sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore
    import torch

    torch.set_num_threads(1)
    sys.exit(function(*arguments))
