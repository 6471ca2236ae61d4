"""Flower's own processes: started, probed until they are ready; the one file with their flags."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from photon.errors import ConfigError, RoundFailed
from photon.runtime.address import bound, dialled, format_address, require_free
from photon.runtime.enrolment import Register
from photon.runtime.guard import Guarded

READY_SECONDS = 90.0
SUBMIT_SECONDS = 120.0
ERROR_SECONDS = 10.0
KEPT_OUTPUT = 10_000
UNKNOWN_KEY = ("Failed to activate SuperNode", "Failed to register SuperNode", "401 Unauthorized")
UNKNOWN_KEY_TEXT = (
    "it does not know this node's key: enrol the node there (photon keys add), copy the new key "
    "here and restart the server; or another process runs with this key"
)
"""What a SuperNode says where its key is not registered, and what that means."""
APP = Path(__file__).parent / "flower_app"


@dataclass(frozen=True, slots=True)
class Tls:
    """Files that secure the link: certificate authority, server certificate, its key."""

    authority: Path
    certificate: Path
    key: Path

    def require(self) -> None:
        """Raises:
        ConfigError: a file is missing.
        """
        for path in (self.authority, self.certificate, self.key):
            if not path.is_file():
                raise ConfigError(f"{path}: no such file; make the keys with `photon keys init`")


def flower_environment(home: Path) -> dict[str, str]:
    """Environment of Flower's processes: its home, no telemetry, no update check, quick polls."""
    binaries = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "FLWR_HOME": str(home.resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": os.environ.get(
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL", "0.1"
        ),
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def start_superlink(
    folder: Path, host: str, port: int, tls: Tls | None, should_stop: Callable[[], bool]
) -> Guarded:
    """Start a SuperLink and wait until its port answers.

    Raises:
        ConfigError: the port is taken, or the host is none of this machine.
        RoundFailed: it ended, or does not answer; its last line says why.
    """
    require_free(host, port)
    command = [
        "flower-superlink",
        "--host", bound(host), "--port", str(port),
        "--database", str((folder / "superlink.db").resolve()),
        "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    if tls is None:
        command.append("--insecure")
    else:
        command += ["--ssl-ca-certfile", str(tls.authority), "--ssl-certfile", str(tls.certificate),
                    "--ssl-keyfile", str(tls.key), "--enable-supernode-auth"]  # fmt: skip
    log = folder / "superlink.log"
    process = Guarded(command, log, flower_environment(folder))
    wait_until(lambda: answers(host, port), process, log, "SuperLink", should_stop)
    return process


def write_connection(folder: Path, host: str, port: int, tls: Tls | None) -> None:
    """Tell Flower's command line where the SuperLink is."""
    secure = (
        "insecure = true" if tls is None else f'root-certificates = "{tls.authority.resolve()}"'
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(
        '[superlink]\ndefault = "photon"\n\n'
        f'[superlink.photon]\naddress = "{format_address(dialled(host), port)}"\n{secure}\n'
    )


def flwr(folder: Path, *arguments: str) -> None:
    """Run Flower's command line.

    Raises:
        RoundFailed: it failed; the message has its last line.
    """
    try:
        done = subprocess.run(
            ["flwr", *arguments],
            env=flower_environment(folder),
            capture_output=True,
            text=True,
            timeout=SUBMIT_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RoundFailed(f"flwr {arguments[0]}: no answer in {SUBMIT_SECONDS:.0f} s") from None
    if done.returncode != 0:
        words = re.sub(r"[─│╭╮╰╯\s]+", " ", done.stdout + done.stderr).strip()
        raise RoundFailed(f"flwr {' '.join(arguments[:2])}: {words[-400:] or 'no output'}")


def register_nodes(folder: Path, register: Register) -> None:
    """Tell the SuperLink the public keys of the enrolled nodes."""
    for name, enrolled in (register.nodes or {}).items():
        path = folder / f"{name}.pub"
        path.write_text(enrolled.public_key + "\n")
        try:
            flwr(folder, "supernode", "register", str(path), "photon", "--name", name)
        except RoundFailed as error:
            if "already" not in str(error):
                raise


class SuperNode:
    """A SuperNode that reaches the node's service by its socket.

    Args:
        tls: certificate authority and the node's private key; None: insecure.
    """

    def __init__(
        self, folder: Path, server: str, socket_path: Path, tls: tuple[Path, Path] | None
    ) -> None:
        self._log = folder / "supernode.log"
        self._failed_at: float | None = None
        self._output = ""
        self._read = self._log.stat().st_size if self._log.exists() else 0
        command = [
            "flower-supernode", "--superlink", server, "--port", str(free_port()),
            "--node-config", f"socket='{socket_path}'",
        ]  # fmt: skip
        if tls is None:
            command.append("--insecure")
        else:
            command += ["--root-certificates", str(tls[0]),
                        "--auth-supernode-private-key", str(tls[1])]  # fmt: skip
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
        """Whether the newest it has said is that it tries again to connect."""
        return "retrying" in self._output.rstrip().rpartition("\n")[2]

    def trouble(self) -> str:
        """Why it has ended, in a line."""
        self._new_output()
        if any(word in self._output for word in UNKNOWN_KEY):
            return UNKNOWN_KEY_TEXT
        _, found, rest = self._output.rpartition("Exit Code:")
        lines = [line.strip() for line in rest.splitlines() if line.strip()]
        return f"{lines[min(2, len(lines) - 1)]} ({self._log})" if found else last_line(self._log)

    def _new_output(self) -> str:
        with open(self._log, "rb") as log:
            log.seek(self._read)
            new = log.read()
        self._read += len(new)
        text = re.sub(r"\x1b\[[0-9;]*m", "", new.decode(errors="replace"))
        self._output = (self._output + text)[-KEPT_OUTPUT:]
        return text

    def close(self) -> None:
        self._process.close()


def wait_until(
    is_ready: Callable[[], bool],
    process: Guarded,
    log: Path,
    what: str,
    should_stop: Callable[[], bool],
) -> None:
    """Probe until something is ready.

    Raises:
        RoundFailed: the process ended, or the time is over.
    """
    deadline = time.monotonic() + READY_SECONDS
    while not is_ready():
        if process.returncode is not None or time.monotonic() > deadline or should_stop():
            reason = "not ready in time" if process.returncode is None else "it ended"
            process.close()
            raise RoundFailed(f"{what}: {reason}: {last_line(log)}")
        time.sleep(0.1)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection((dialled(host), port), timeout=1.0).close()
    except OSError:
        return False
    return True


def last_line(log: Path, word: str = "") -> str:
    """The last line of a log that holds the word, for a message."""
    try:
        text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
    except OSError:
        return "no log"
    lines = [line.strip() for line in text.splitlines() if word in line and line.strip()]
    return f"{lines[-1][-300:]} ({log})" if lines else f"see {log}"
