"""A node beside the server, on the same machine: a process of its own, ended with the server."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from photon.config.resolve import flatten
from photon.config.schema import Config
from photon.runtime.enrolment import REGISTER, parse_clients
from photon.runtime.guard import Guarded
from photon.runtime.keys import enrol, make_authority

NAME = "local"
SENT = (
    "photon.device",
    "photon.workers",
    "photon.threads",
    "dataset.train.root",
    "dataset.val.root",
)
"""Prefixes of keys that the node takes from the server's command line."""


@contextmanager
def own_node(clients: str | None, port: int, keys: Path | None, config: Config) -> Iterator[None]:
    """Run a node for these clients while the server runs; nothing if there are none.

    Args:
        keys: folder of `photon keys`; made, and the node enrolled, where that was not done yet.
    """
    if clients is None:
        yield
        return
    if keys is not None:
        _require_keys(keys, parse_clients(clients))
    folder = Path(config.photon.saving_path) / "nodes" / NAME
    command = [
        sys.executable, "-m", "photon", "node", "--server", f"localhost:{port}",
        "--name", NAME, "--clients", clients,
        *(["--insecure"] if keys is None else ["--keys", str(keys)]),
        f"photon.saving_path={folder}", *_own_overrides(config),
    ]  # fmt: skip
    node = Guarded(command, folder / "node.log", os.environ)
    try:
        yield
    finally:
        node.close()


def _require_keys(folder: Path, clients: list[int]) -> None:
    if not (folder / REGISTER).exists():
        make_authority(folder, [socket.gethostname(), "localhost", "127.0.0.1", "::1"])
    if not (folder / f"{NAME}.key").exists():
        enrol(folder, NAME, clients)


def _own_overrides(config: Config) -> list[str]:
    """Keys of this machine that are not at their defaults."""
    default = dict(flatten(Config()))
    return [
        f"{key}={value}"
        for key, value in flatten(config)
        if key.startswith(SENT) and value is not None and value != default[key]
    ]
