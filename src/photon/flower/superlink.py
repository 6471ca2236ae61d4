"""Flower's own processes: started, probed until they are ready; the one file with their flags."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from photon.errors import ConfigError
from photon.machine.address import free_port, require_free
from photon.machine.guard import Guarded
from photon.machine.private_files import write_private
from photon.wire.signatures import require_certificate, require_pair

ERROR_SECONDS = 10.0
LEAVE_SECONDS = 10.0
RECEIVED, SENT = "Received successfully", "Sent successfully"
"""What a SuperNode says of each message, and of each answer."""
KEPT_OUTPUT = 10_000
UNKNOWN_KEY = ("Failed to activate SuperNode", "Failed to register SuperNode", "401 Unauthorized")
UNKNOWN_KEY_TEXT = (
    "it does not take this node: another process runs with its key, or did so a minute ago; or "
    "the key is not enrolled there"
)
"""What a SuperNode says where its key cannot be used, and what that means."""
TOLD = "photon: "
"""Begins a line of the SuperLink's process that the user of the server is to see."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
APP = Path(__file__).parent / "app"


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """Files of `photon keys` on the server: its certificate and its private key."""

    certificate: Path
    key: Path

    @classmethod
    def of(cls, folder: Path) -> ServerKeys:
        """Raises:
        ConfigError: a file is missing or damaged, or the key is not that of the certificate.
        """
        for name in ("ca.pem", "server.pem", "server.key"):
            if not (folder / name).is_file():
                raise ConfigError(
                    f"{folder / name}: no such file; make the keys with `photon keys init`"
                )
        require_certificate(folder / "ca.pem")
        require_pair(folder / "server.pem", folder / "server.key")
        return cls(folder / "server.pem", folder / "server.key")


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """Files of `photon keys` on a node: the server's authority, and the node's own private key."""

    authority: Path
    key: Path


def flower_environment(home: Path) -> dict[str, str]:
    """Environment of Flower's processes: its home, no telemetry, no update check, quick polls."""
    binaries = str(Path(sys.executable).parent)
    return {
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        **os.environ,
        "FLWR_HOME": str(home.resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
    }


@dataclass(frozen=True, slots=True)
class Order:
    """What the process of a SuperLink is to do.

    Attributes:
        folder: its private files.
        host, port: where nodes reach it.
        certificate, key: of its TLS; None: none.
        nodes: public keys (OpenSSH) of the enrolled, by name; None: whoever comes.
        clients: by name, those that its key is bound to, as in 0-3,7.
        app: folder of the relays.
        socket, token: where the server's relay is awaited, and what it must say there.
    """

    folder: str
    host: str
    port: int
    certificate: str | None
    key: str | None
    nodes: dict[str, str] | None
    clients: dict[str, str]
    app: str
    socket: str
    token: str

    @classmethod
    def read(cls, path: Path) -> Order:
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self) -> Path:
        path = Path(self.folder) / "superlink.json"
        path.unlink(missing_ok=True)
        write_private(path, json.dumps(asdict(self)).encode())
        return path


def start_superlink(order: Order) -> Guarded:
    """Start a SuperLink; the relay that it starts tells when it is ready.

    Raises:
        ConfigError: it cannot listen there: the port is taken, for one.
    """
    require_free(order.host, order.port)
    folder = Path(order.folder)
    command = [sys.executable, "-m", "photon.flower.superlink_process", str(order.write())]
    return Guarded(command, folder / "superlink.log", flower_environment(folder))


class Tail:
    """What comes into a log from now on."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read = log.stat().st_size if log.exists() else 0

    def read(self) -> str:
        """What is new, without colours; nothing of a log that somebody has removed."""
        try:
            with open(self._log, "rb") as log:
                if log.seek(0, os.SEEK_END) < self._read:  # it was cut, as by logrotate
                    self._read = 0
                log.seek(self._read)
                new = log.read()
        except FileNotFoundError:
            return ""
        self._read += len(new)
        return _COLOUR.sub("", new.decode(errors="replace"))


class SuperNode:
    """A SuperNode that reaches the node's service by its socket.

    Args:
        keys: None: insecure.
        app: the only one that it runs.
    """

    def __init__(
        self,
        folder: Path,
        server: str,
        socket_path: Path,
        keys: NodeKeys | None,
        app: Path = APP,
    ) -> None:
        self._log = folder / "supernode.log"
        self._failed_at: float | None = None
        self._output = ""
        self._tail = Tail(self._log)
        self._owed = 0
        command = [
            sys.executable, "-m", "photon.flower.supernode_process", str(app), str(free_port()),
            "--superlink", server, "--node-config", f"socket='{socket_path}'",
        ]  # fmt: skip
        if keys is None:
            command.append("--insecure")
        else:
            command += ["--root-certificates", str(keys.authority),
                        "--auth-supernode-private-key", str(keys.key)]  # fmt: skip
        self._process = Guarded(command, self._log, flower_environment(folder))

    def is_at_work(self) -> bool:
        """Whether it runs and has reported no error: one that lost its server may hang as it ends.

        After an error it has `ERROR_SECONDS` to end by itself.
        """
        if self._process.returncode is not None:
            return False
        if self._failed_at is None and "ERROR" in self._new_output():
            self._failed_at = time.monotonic()
        return self._failed_at is None or time.monotonic() - self._failed_at < ERROR_SECONDS

    def has_lost_server(self) -> bool:
        """Whether the last line of its log says that it tries again to connect."""
        return "retrying" in self._output.rstrip().rpartition("\n")[2]

    def trouble(self) -> str:
        """Why the SuperNode has ended, in a line."""
        self._new_output()
        if any(word in self._output for word in UNKNOWN_KEY):
            return UNKNOWN_KEY_TEXT
        _, found, rest = self._output.rpartition("Exit Code:")
        lines = [line.strip() for line in rest.splitlines() if line.strip()]
        return f"{lines[min(2, len(lines) - 1)]} ({self._log})" if found else last_line(self._log)

    def _new_output(self) -> str:
        text = self._tail.read()
        self._owed += text.count(RECEIVED) - text.count(SENT)
        self._output = (self._output + text)[-KEPT_OUTPUT:]
        return text

    def settle(self) -> None:
        """Wait until the server has the answers to all that has come, but not for long."""
        deadline = time.monotonic() + LEAVE_SECONDS
        while self._process.returncode is None and time.monotonic() < deadline:
            self._new_output()
            if self._owed <= 0:
                return
            time.sleep(0.1)

    def close(self) -> None:
        self._process.close()


def last_line(log: Path) -> str:
    """The last line of a log that is not empty, for a message."""
    try:
        text = _COLOUR.sub("", log.read_text(errors="replace"))
    except OSError:
        return "no log"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{lines[-1][-300:]} ({log})" if lines else f"see {log}"
