"""A node beside the server, on the same machine: a process of its own, ended with the server."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from photon.config.between.travel import TRAVELS
from photon.config.compose import as_overrides
from photon.config.dataset import StorageConfig
from photon.config.schema import Config
from photon.errors import ConfigError, RoundFailed
from photon.flower.superlink import last_line
from photon.machine.address import dialled, format_address
from photon.machine.guard import Guarded
from photon.run.preparation import require_data
from photon.wire.enrolment import REGISTER, format_clients, parse_clients, read_nodes
from photon.wire.keys import bind, enrol, make_authority

NAME = "local"
SENT = (
    "photon.device",
    "photon.workers",
    "photon.threads",
    "photon.transport_hosts",
    "photon.fewest_masked",
    "dataset.train.",
)
"""Prefixes of keys that the node takes from the server's command line, but for what travels."""


def require_clients(clients: str | None, population: int, train: StorageConfig) -> None:
    """Refuse to host clients that the federation does not have, or that have no data here.

    Args:
        population: clients of the federation.
        train: where their data is.

    Raises:
        ConfigError: one of them is not below `fl.n_total_clients`.
        DataError: nothing is prepared for one of them.
    """
    if clients is None:
        return
    numbers = parse_clients(clients)
    if numbers[-1] >= population:
        beyond = format_clients(number for number in numbers if number >= population)
        raise ConfigError(
            f"--host-clients {clients}: there is no client {beyond} with "
            f"fl.n_total_clients={population}, which has 0 to {population - 1}; host those, or "
            "set that key"
        )
    require_data(train, numbers)


@contextmanager
def own_node(
    clients: str | None,
    address: tuple[str, int],
    keys: Path | None,
    runs: Path,
    given: Mapping[str, Any],
) -> Iterator[Callable[[], str]]:
    """Run a node for these clients while the server runs; nothing if there are none.

    Args:
        address: host and port that the server listens on.
        runs: folder of the run folders; given: values by key.
        keys: folder of `photon keys`; made, and the node enrolled, where that was not done yet.

    Yields:
        What the node says of itself, for a server that waits; raises `RoundFailed` if it has ended.
    """
    if clients is None:
        yield str
        return
    host = dialled(address[0])
    if keys is not None:
        _require_keys(keys, host, parse_clients(clients))
    folder = runs / "nodes" / NAME
    command = [
        sys.executable, "-m", "photon", "node", "--server", format_address(host, address[1]),
        "--name", NAME, "--clients", clients,
        *(["--insecure"] if keys is None else ["--keys", str(keys)]),
        f"photon.saving_path={folder}", *_own_overrides(given),
    ]  # fmt: skip
    log = folder / "node.log"
    node = Guarded(command, log, os.environ)

    def state() -> str:
        if node.returncode is None:
            return f"; the log of node {NAME} is {log}"
        raise RoundFailed(f"node {NAME} has ended: {last_line(log)}")

    try:
        yield state
    finally:
        node.close()


def _require_keys(folder: Path, host: str, clients: list[int]) -> None:
    if not (folder / REGISTER).exists():
        hosts = (socket.gethostname(), "localhost", "127.0.0.1", "::1", host)
        make_authority(folder, list(dict.fromkeys(hosts)))
    if (folder / f"{NAME}.key").exists() and NAME in read_nodes(folder / REGISTER):
        bind(folder, NAME, clients)  # an earlier run may have had others
    else:
        enrol(folder, NAME, clients)


def _own_overrides(values: Mapping[str, Any]) -> list[str]:
    """Keys of this machine that are not at their defaults."""
    default = Config().values_by_key()
    return as_overrides(
        {
            key: value
            for key, value in values.items()
            if key.startswith(SENT) and not key.startswith(TRAVELS) and value != default[key]
        }
    )
