"""The processes that train one client together, one per device: a leader and its followers.

The leader is a worker like any other. It starts the others, tells them what to train, and ends when
one of them does; they end with it, whatever it was doing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from photon.core.messages import Instruction, Moments
from photon.core.tree import Tree
from photon.machine.address import free_port
from photon.machine.process_group import from_first
from photon.node.client_host import ClientHost, Stopped
from photon.run.checkpoint import load_base
from photon.training.parallel import World

WATCH_SECONDS = 0.5


@contextmanager
def followers(size: int, run: Path, device: str, first: int) -> Iterator[None]:
    """Start the followers of this process and make it the first of their process group.

    Args:
        size: processes in all.
        run: the run folder.
        device: `photon.device`.
        first: number of this process's GPU on this machine.
    """
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    os.environ |= {**shared, "RANK": "0", "LOCAL_RANK": str(first)}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "photon.node.worker", "follow", str(run), device],
            stdin=subprocess.PIPE,
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(first + rank)},
        )
        for rank in range(1, size)
    ]
    watch = threading.Thread(target=_end_with_any, args=(started,), daemon=True)
    watch.start()
    try:
        yield
    finally:
        for process in started:
            process.kill()


def _end_with_any(started: list[subprocess.Popen[bytes]]) -> None:
    """A collective with a process that is gone may never return: end at once, to be replaced."""
    while all(process.poll() is None for process in started):
        time.sleep(WATCH_SECONDS)
    os._exit(1)


def end_with_leader() -> None:
    """In a follower: end as soon as the leader has, which closes our standard input."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class BaseFile:
    """The base of the open round, read once for all clients that train from it."""

    def __init__(self) -> None:
        self._path = ""
        self._base: tuple[Tree, Moments] = {}, {}

    def load(self, path: str) -> tuple[Tree, Moments]:
        if path != self._path:
            base = load_base(Path(path))
            self._path, self._base = path, (base.params, base.moments)
        return self._base


class Leader:
    """Trains clients, together with its followers if there are any."""

    def __init__(self, host: ClientHost, world: World) -> None:
        self.host, self.world, self._base = host, world, BaseFile()

    def train(self, base: str, instruction: Instruction, stop: Callable[[], bool]) -> Path:
        """Carry out an instruction.

        Raises:
            Stopped: as asked; the open state is saved.
        """
        loaded = self._base.load(base)
        if self.world.size == 1:
            return self.host.train(instruction, *loaded, stop)
        task = {"base": base, "instruction": asdict(instruction)}
        try:
            from_first(self.world, lambda: task)
            return self.host.train(instruction, *loaded, lambda: self.world.any(stop()))
        except RuntimeError:
            time.sleep(3 * WATCH_SECONDS)  # if a follower is gone, this process ends here
            raise


def follow(host: ClientHost, world: World) -> None:
    """Take part in whatever the leader trains, until it ends."""
    base = BaseFile()
    while True:
        task: dict[str, Any] = from_first(world, dict)
        loaded = base.load(task["base"])
        with suppress(Stopped):
            host.train(Instruction(**task["instruction"]), *loaded, lambda: world.any(False))
