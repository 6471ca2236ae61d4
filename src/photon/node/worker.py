"""A worker process: one trainer that carries out instructions sent by its parent.

It ends when the parent does: between two steps it looks whether the socket has closed, so a parent
killed with -9 leaves no orphan.
"""

from __future__ import annotations

import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from photon.machine import frames

if TYPE_CHECKING:  # torch is imported once the environment is as it should be
    from photon.config.resolve import Run
    from photon.node.client_host import ClientHost
    from photon.training.parallel import World

BEAT_SECONDS = 2.0
"""How often a worker says that it is alive while it trains."""


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
    with process_group(device) as (world, chosen):
        yield ClientHost(run, path / "clients", chosen, world), world


def _serve(connection: socket.socket, host: ClientHost, world: World) -> int:
    from photon.node.client_host import Stopped
    from photon.node.team import lead

    if not frames.try_send(connection, {"ready": True}):
        return 0
    while (message := frames.receive(connection)) is not None:
        if "instruction" not in message:
            continue
        client = message["instruction"]["client"]
        try:
            path = lead(host, world, message, _StopOrBeat(connection))
            reply = {"client": client, "update": str(path)}
        except Stopped:
            reply = {"client": client, "stopped": True}
        except Exception as error:
            reply = {"client": client, "error": type(error).__name__, "message": str(error)}
        if not frames.try_send(connection, reply):
            return 0
    return 0


class _StopOrBeat:
    """Asked between steps: says that the worker is alive, and whether the parent wants it to stop.

    Anything that arrives while training, the end of the connection included, means stop.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.last = connection, time.monotonic()

    def __call__(self) -> bool:
        if select.select([self.connection], [], [], 0)[0]:
            return True
        if time.monotonic() - self.last <= BEAT_SECONDS:
            return False
        self.last = time.monotonic()
        return not frames.try_send(self.connection, {"beat": True})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
