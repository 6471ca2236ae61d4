"""A federation on this machine for tests: node services behind Unix sockets, in threads."""

from __future__ import annotations

import itertools
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from photon.chain.receipts import Trust
from photon.config import Config, load_config
from photon.config.resolve import Run
from photon.container.container import digest
from photon.experiment import experiment
from photon.experiment.job import EngineFactory, Job
from photon.experiment.remote import remote_engine
from photon.machine import frames
from photon.node.service import NodeService
from photon.run import checkpoint
from photon.run.results import TrainResult
from photon.run.run_folder import RunFolder
from photon.server.engine import Engine
from photon.server.link import Answer, Inbox, Link
from photon.wire.buffers import Buffers
from photon.wire.enrolment import REGISTER, Register, read_register, signer
from photon.wire.messages import MAX_MESSAGE_BYTES, Sign
from photon.wire.signatures import own_key, server_seal

CONNECT_SECONDS = 5.0
STALL_SECONDS = 60.0
"""A node that stops so long in the middle of its answer has gone away: others wait behind it."""


@contextmanager
def nodes(
    saving: Path,
    data_root: Path | Mapping[str, Path],
    clients: Mapping[str, list[int]],
    *overrides: str,
    sign: Sign | None = None,
    keys: Path | None = None,
) -> Iterator[Path]:
    """Services by name; gives the folder of their sockets.

    Args:
        data_root: of all, or of each.
        keys: folder of `photon keys` with the key of each.
    """
    stop, threads = threading.Event(), []
    with tempfile.TemporaryDirectory(prefix="photon-") as home:
        for name, own in clients.items():
            root = data_root if isinstance(data_root, Path) else data_root[name]
            config = load_config(
                [f"dataset.train.root_local={root}", f"photon.saving_path={saving / name}",
                 "photon.workers=0", "photon.threads=1", *overrides]
            )  # fmt: skip
            path = Path(home) / f"{name}.sock"
            own_sign, trust = (sign, None) if keys is None else papers(keys, name)
            service = NodeService(name, own, config, path, own_sign, lambda line: None, trust)
            threads.append(threading.Thread(target=service.serve, args=(stop.is_set,)))
            threads[-1].start()
        try:
            yield Path(home)
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)
                assert not thread.is_alive()


def papers(keys: Path, name: str) -> tuple[Sign, Trust]:
    """What a node signs with, and what it checks receipts by."""
    key = keys / f"{name}.key"
    return signer(key), Trust(own_key(key), (keys / "ca.pem").read_bytes())


def train(
    config: Config, sockets: Path, lines: list[str] | None = None, keys: Path | None = None
) -> TrainResult:
    """The run over those nodes; what it says goes to `lines`."""
    heard = [] if lines is None else lines
    return experiment.train(config, engine=over_sockets(sockets, keys), say=heard.append)


def over_sockets(sockets: Path, keys: Path | None = None) -> EngineFactory:
    """An engine whose nodes are services of this machine, each behind a Unix socket.

    Args:
        keys: folder of `photon keys`; None: nobody signs.
    """
    register = Register(None) if keys is None else read_register(keys / REGISTER)

    def make(folder: RunFolder, run: Run, job: Job) -> Engine:
        return remote_engine(folder, run, job, SocketLink(sockets), register)

    seal = None if keys is None else server_seal(keys / "server.pem", keys / "server.key")
    return EngineFactory("sockets", make, seal=seal)


def final_digest(result: TrainResult) -> str:
    """Digest of a run's last parameters."""
    newest = checkpoint.newest_checkpoint(Path(result.folder) / "checkpoints")
    return digest(checkpoint.load_parameters(newest))


class SocketLink(Link):
    """Nodes of this machine, each behind a Unix socket; one connection for each message.

    Args:
        folder: every socket in it is a node's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._inbox = Inbox()
        self._count = itertools.count()

    def addresses(self) -> list[str]:
        return sorted(str(path) for path in self.folder.glob("*.sock"))

    def send(self, address: str, message: Buffers) -> str:
        name = f"{next(self._count)}"
        threading.Thread(target=self._exchange, args=(name, address, message), daemon=True).start()
        return name

    def answers(self, timeout: float) -> Iterator[Answer]:
        return self._inbox.drain(timeout)

    def _exchange(self, name: str, address: str, message: Buffers) -> None:
        try:
            with connect(Path(address)) as connection:
                frames.send_bytes(connection, *message.parts)
                length = frames.receive_length(connection, MAX_MESSAGE_BYTES)
                if length is None:
                    raise ConnectionError
                connection.settimeout(STALL_SECONDS)
                self._inbox.receive(name, lambda: frames.read(connection, length))
        except (OSError, ValueError):
            self._inbox.lose(name)


def connect(path: Path) -> socket.socket:
    """A connection to a Unix socket whose owner may just be starting.

    Raises:
        OSError: nobody listens within `CONNECT_SECONDS`.
    """
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
            return connection
        except (ConnectionRefusedError, FileNotFoundError):
            connection.close()
            if time.monotonic() > deadline or not path.exists():
                raise
            time.sleep(0.05)
