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
from pathlib import Path
from typing import Any

BEAT_SECONDS = 2.0
"""How often a worker says that it is alive while it trains."""


def main(arguments: list[str]) -> int:
    """Run `python -m photon.runtime.worker SOCKET_FD RUN_FOLDER`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=int(arguments[0]))
    path = Path(arguments[1])

    import torch

    from photon.runtime.device import choose_device, keep_freed_memory
    from photon.runtime.node import Node
    from photon.runtime.run_folder import read_run

    config, _ = read_run(path)
    keep_freed_memory()
    assert isinstance(config.photon.threads, int)
    torch.set_num_threads(config.photon.threads)
    node = Node(config, path / "clients", choose_device(config.photon.device))
    return _serve(connection, node)


def _serve(connection: socket.socket, node: Any) -> int:
    from photon.runtime import frames
    from photon.runtime.node import Stopped

    base = _Base()
    if not _told(connection, {"ready": True}):
        return 0
    while (message := frames.receive(connection)) is not None:
        if "instruction" not in message:
            continue
        instruction = message["instruction"]
        try:
            path = _train(connection, node, base.load(message["base"]), instruction)
            reply = {"client": instruction["client"], "update": str(path)}
        except Stopped:
            reply = {"client": instruction["client"], "stopped": True}
        except Exception as error:
            reply = {
                "client": instruction["client"],
                "error": type(error).__name__,
                "message": str(error),
            }
        if not _told(connection, reply):
            return 0
    return 0


def _told(connection: socket.socket, message: dict[str, Any]) -> bool:
    """Send a message; False if the parent is gone."""
    from photon.runtime import frames

    try:
        frames.send(connection, message)
    except OSError:
        return False
    return True


class _Base:
    """The base of the open round, read once for all clients that train from it."""

    def __init__(self) -> None:
        self._path, self._base = "", None

    def load(self, path: str) -> Any:
        from photon.runtime.checkpoint import load_base

        if path != self._path:
            self._path, self._base = path, load_base(Path(path))
        return self._base


def _train(connection: socket.socket, node: Any, base: Any, instruction: dict[str, Any]) -> Path:
    from photon.core.messages import Instruction

    return node.train(Instruction(**instruction), *base, _StopOrBeat(connection))


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
        return not _told(self.connection, {"beat": True})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
