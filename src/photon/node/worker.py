"""A worker process: one trainer that carries out instructions sent by its parent.

It ends when the parent does: between two steps it looks whether the socket has closed, so a parent
killed with -9 leaves no orphan.
"""

from __future__ import annotations

import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from photon.errors import StorageError
from photon.machine import frames

if TYPE_CHECKING:  # torch is imported once the environment is as it should be
    from photon.config.resolve import Run
    from photon.node.client_host import ClientHost
    from photon.training.parallel import World

BEAT_SECONDS = 2.0
"""How often a worker says that it is alive while it trains."""
NEXT_SECONDS = 0.05
"""In which the next client is named, if there is one."""


def main(arguments: list[str]) -> int:
    """Run `python -m photon.node.worker SOCKET_FD RUN_FOLDER DEVICE FIRST_GPU`.

    With `photon.devices_per_client` it starts others like itself, with `follow` in place of the
    socket, which train the same client on the other devices.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    socket_fd, path, device = arguments[0], Path(arguments[1]), arguments[2]

    from photon.config.resolve import Run
    from photon.node.team import end_with_leader, follow, followers
    from photon.run.run_folder import read_config

    run = read_config(path, Run)
    if socket_fd == "follow":
        end_with_leader()
        with _host(run, path, device) as (host, world):
            follow(host, world)
        return 0
    connection, size = socket.socket(fileno=int(socket_fd)), run.machine.devices_per_client
    team = followers(size, path, device, int(arguments[3])) if size > 1 else nullcontext()
    with team, _host(run, path, device) as (host, world):
        return _serve(connection, host, world)


@contextmanager
def _host(run: Run, path: Path, device: str) -> Iterator[tuple[ClientHost, World]]:
    import torch

    from photon.machine.device import return_freed_memory
    from photon.machine.process_group import process_group
    from photon.node.client_host import ClientHost

    return_freed_memory()
    torch.set_num_threads(run.machine.threads)
    with (
        process_group(device) as (world, chosen),
        closing(ClientHost(run, path / "clients", chosen, world)) as host,
    ):
        yield host, world


def _serve(connection: socket.socket, host: ClientHost, world: World) -> int:
    from photon.node.course import Stopped
    from photon.node.team import lead

    parent = _Parent(connection)
    parent.tell({"ready": True})
    while not parent.is_gone and (message := frames.receive(connection)) is not None:
        if "instruction" not in message:
            continue
        client, parent.is_refused = message["instruction"]["client"], False
        try:
            update = lead(host, world, message, parent)
            parent.tell({"trained": client, "steps": host.steps_taken})
            update.add_done_callback(partial(parent.tell_end, client))
            if message.get("following") is None or not parent.has_more(NEXT_SECONDS):
                host.rest()
                host.go_on(parent)
        except Stopped:
            parent.tell({"client": client, "stopped": True})
        except Exception as error:
            parent.tell_error(client, error)
    return 0


class _Parent:
    """The other end, which hears from the thread that trains and from the one that writes.

    Asked between steps, it says that the worker is alive, and whether it is to stop: the disk has
    refused the update before, or anything has arrived, the end of the connection included.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self._last = connection, time.monotonic()
        self._sending = threading.Lock()
        self.is_gone = self.is_refused = False

    def __call__(self) -> bool:
        if self.is_gone or self.is_refused or self.has_more(0):
            return True
        if time.monotonic() - self._last > BEAT_SECONDS:
            self._last = time.monotonic()
            self.tell({"beat": True})
        return self.is_gone

    def has_more(self, seconds: float) -> bool:
        """Whether something arrives within so many seconds."""
        return bool(select.select([self.connection], [], [], seconds)[0])

    def tell(self, message: dict[str, Any]) -> None:
        with self._sending:
            self.is_gone |= not frames.try_send(self.connection, message)

    def tell_end(self, client: int, update: Future[Path]) -> None:
        """Say what came of a client that has been trained."""
        if error := update.exception():
            self.is_refused |= isinstance(error, StorageError)
            self.tell_error(client, error)
        else:
            self.tell({"client": client, "update": str(update.result())})

    def tell_error(self, client: int, error: BaseException) -> None:
        self.tell({"client": client, "error": type(error).__name__, "message": str(error)})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
