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
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from photon.core.messages import Instruction
from photon.machine.address import free_port
from photon.machine.process_group import from_first
from photon.node.client_host import ClientHost
from photon.node.course import Stopped
from photon.run.checkpoint import load_base
from photon.training.parallel import World

WATCH_SECONDS = 0.5


@contextmanager
def followers(size: int, run: Path, device: str, first: int) -> Iterator[None]:
    """Start the followers of this process and make it the first of their process group.

    Args:
        size: processes in all.
        run: folder of the run.
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


def lead(
    host: ClientHost, world: World, task: dict[str, Any], stop: Callable[[], bool]
) -> Future[Path]:
    """Carry out an instruction, together with the followers if there are any.

    Args:
        task: `instruction`, `base`: the path of what it starts from, `following` if the next
            instruction is known, and `forget`, see `ClientHost`.

    Raises:
        Stopped: as asked; the open state is saved.
    """
    if world.size == 1:
        return _train(host, task, stop)
    try:
        from_first(world, lambda: task)
        return _train(host, task, lambda: world.any(stop()))
    except RuntimeError:
        time.sleep(3 * WATCH_SECONDS)  # if a follower is gone, this process ends here
        raise


def follow(host: ClientHost, world: World) -> None:
    """Take part in whatever the leader trains, until it ends."""
    while True:
        with suppress(Stopped):
            _train(host, from_first(world, dict), lambda: world.any(False))


def _train(host: ClientHost, task: dict[str, Any], stop: Callable[[], bool]) -> Future[Path]:
    base, following = _base_at(Path(task["base"])), task.get("following")
    if task["forget"]:
        host.forget()
    return host.train(
        Instruction(**task["instruction"]), base, stop,
        following and Instruction(**following),
    )  # fmt: skip


_base_at = lru_cache(maxsize=1)(load_base)
"""The base of the open round, read once for all clients that train from it."""
