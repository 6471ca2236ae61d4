"""Weights & Biases: a process of its own that follows metrics.jsonl, and its line to this one."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from photon.errors import ConfigError
from photon.say import Say
from photon.tracking.wandb_process import FINISH_SECONDS

FOLDER = "wandb"
START_SECONDS = 60.0
"""How long the import of `wandb` may take before a run begins without knowing."""
_COMMAND = [sys.executable, "-m", "photon.tracking.wandb_process"]


def require_login() -> None:
    """Raises:
    ConfigError: W&B finds no credentials on this machine.
    """
    try:
        done = subprocess.run(
            _COMMAND, input="{}\n", capture_output=True, text=True, timeout=START_SECONDS
        )
    except subprocess.TimeoutExpired:
        return  # a slow machine is no reason to refuse; the run warns if need be
    if done.returncode:
        raise ConfigError(
            f"use_wandb: not logged in ({_reason(done.stdout) or done.stderr.strip()[-200:]}); run "
            "`wandb login`, set WANDB_API_KEY, or wandb.setup.mode=offline"
        )


def _reason(answers: str) -> str | None:
    found = [json.loads(line) for line in answers.splitlines()]
    return next((answer["error"] for answer in found if "error" in answer), None)


class WandbTracker:
    """Tells the process that metrics.jsonl has grown. Never waits, but for `close`.

    Args:
        run: the run folder; its metrics.jsonl ends with the last commit.
        key: the counter of a record, `round` or `step`.
        init: arguments of `wandb.init`.
    """

    def __init__(self, run: Path, key: str, init: Mapping[str, Any], say: Say) -> None:
        self._say, self._unread = say, b""
        (run / FOLDER).mkdir(exist_ok=True)
        (run / "metrics.jsonl").touch()
        with open(run / FOLDER / "process.log", "ab") as log:
            self._process = subprocess.Popen(
                _COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the trainer, which then ends us
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._answers.fileno(), False)
        os.set_blocking(self._input.fileno(), False)
        order = {"folder": str(run.resolve()), "key": key, "init": dict(init)}
        self._tell(json.dumps(order))

    def __call__(self, record: Mapping[str, Any]) -> None:
        self._hear()
        self._tell("more")

    def _tell(self, line: str, deadline: float = 0.0) -> None:
        """Write a line into the pipe; nothing into a full one, whose lines wake the process too.

        Args:
            deadline: until when a full one is waited for, on the monotonic clock.

        Raises:
            TimeoutError: it has been, in vain.
        """
        while self._input.write(line.encode() + b"\n") is None and deadline:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([], [self._input], [], left)[1]:
                raise TimeoutError

    def _hear(self) -> bool:
        """Whether the process says that it has sent everything.

        Raises:
            RuntimeError: it has failed; with W&B's reason.
        """
        self._unread += self._answers.read() or b""
        *lines, self._unread = self._unread.split(b"\n")
        done = False
        for answer in map(json.loads, lines):
            if "error" in answer:
                raise RuntimeError(answer["error"])
            if answer.get("at"):
                self._say(f"wandb       {answer['at']}")
            done = done or "done" in answer
        if not done and self._process.poll() is not None:
            raise RuntimeError(f"its process ended ({self._process.returncode})")
        return done

    def close(self, finished: bool) -> None:
        """Let the process send what it has, for some seconds.

        Args:
            finished: the run has come to its end; else W&B shows it as failed, until it goes on.

        Raises:
            RuntimeError: W&B has not got everything.
        """
        deadline = time.monotonic() + FINISH_SECONDS + 5
        try:
            with suppress(BrokenPipeError):
                if finished:
                    self._tell("finished", deadline)
                self._input.close()
            self._process.wait(max(0.0, deadline - time.monotonic()))
            self._hear()
        except (subprocess.TimeoutExpired, TimeoutError):
            raise RuntimeError(f"not everything is sent after {FINISH_SECONDS} s") from None
        finally:
            self._end()

    def _end(self) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for pipe in (self._input, self._answers):
            with suppress(OSError):
                pipe.close()
