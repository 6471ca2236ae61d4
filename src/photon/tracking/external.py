"""Trackers outside of the run's own files: what they need, and their life beside a run.

They are an addition: what goes wrong with one costs a warning, never the run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from photon.config.tracking import TensorboardLogger, WandbSetup
from photon.errors import require_package
from photon.run.kinds import FEDERATED
from photon.run.run_folder import RunFolder
from photon.run.trackers import Tracker
from photon.say import Say
from photon.tracking.tensorboard import TensorboardTracker
from photon.tracking.wandb_setup import effective_setup, init_arguments
from photon.tracking.wandb_tracker import WandbTracker, require_login


class ExternalTracker(Protocol):
    """A tracker that holds something open; `close` is told whether the run came to its end."""

    def __call__(self, record: Mapping[str, Any]) -> None: ...

    def close(self, finished: bool) -> None: ...


Make = Callable[[str, int], ExternalTracker]
"""Opens a tracker, given the counter of a record and its value at the last commit."""


def require_trackers(board: TensorboardLogger | None, setup: WandbSetup | None) -> None:
    """Refuse, before a run begins, what its trackers would need and do not have.

    Raises:
        ConfigError: a package is missing, or nobody is logged in to W&B.
    """
    if board is not None:
        needed_by = "llm_config.loggers.tensorboard: needs the package tensorboard"
        require_package("tensorboard", "track", needed_by)
    setup = effective_setup(setup, os.environ)
    if setup is None:
        return
    require_package("wandb", "track", "use_wandb: needs the package wandb")
    if setup.mode == "online":
        require_login()


class ExternalTrackers:
    """The external trackers of one run; they end with the block, however it ends.

    Args:
        run: its name.
        board, setup: what the configuration asks for.
        active: whether this process tracks at all: only the first one of a job does.
    """

    def __init__(
        self,
        folder: RunFolder,
        run: str,
        board: TensorboardLogger | None,
        setup: WandbSetup | None,
        active: bool,
        say: Say,
        warn: Say,
    ) -> None:
        self._folder, self._run, self._active = folder, run, active
        self._board, self._setup, self._say, self._warn = board, setup, say, warn
        self._open: dict[str, ExternalTracker] = {}
        self._failed: set[str] = set()

    def __enter__(self) -> ExternalTrackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for name, tracker in self._open.items():
            self._attempt(name, lambda t=tracker: t.close(finished=kind is None))

    def begin(self, key: str, committed: int) -> list[Tracker]:
        """Open the trackers that the configuration asks for.

        Args:
            key: the counter of a record, `round` or `step`.
            committed: value of that counter at the last commit, where metrics.jsonl ends.
        """
        if not self._active:
            return []
        for name, make in self._wanted().items():
            self._attempt(name, lambda n=name, m=make: self._open.update({n: m(key, committed)}))
        return [self._track]

    def _wanted(self) -> dict[str, Make]:
        path, board = self._folder.path, self._board
        setup = effective_setup(self._setup, os.environ)
        wanted: dict[str, Make] = {}
        if board is not None:
            every = board.flush_interval
            wanted["tensorboard"] = lambda key, done: TensorboardTracker(path, key, done, every)
        if setup is not None:
            suffix = "server" if self._folder.kind == FEDERATED else "centralised"
            init = init_arguments(setup, self._run, suffix)
            wanted["wandb"] = lambda key, done: WandbTracker(path, key, init, self._say)
        return wanted

    def _track(self, record: Mapping[str, Any]) -> None:
        for name, tracker in self._open.items():
            if name not in self._failed:
                self._attempt(name, lambda t=tracker: t(record))

    def _attempt(self, name: str, act: Callable[[], None]) -> None:
        """Call one tracker; its first error is a warning, and the last that is heard of it."""
        try:
            act()
        except Exception as error:
            if name not in self._failed:
                self._warn(f"{name}: {error}; the run is unharmed, metrics.jsonl has every number")
            self._failed.add(name)
