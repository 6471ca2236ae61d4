"""Real processes for the failure suite: a server and nodes behind Unix sockets."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import node_process
import pytest
import server_process

from forked import Forked
from photon.run.trackers import read_lines

CLIENTS = {"a": "0", "b": "1"}
SHAPE = ["recipe=smoke", "run_uuid=run", "llm_config.save_interval=1", "fl.eval_period=null",
         "fl.failed_rounds=retry", "fl.round_attempts=50", "photon.join_timeout=60"]  # fmt: skip


@dataclass
class Federation:
    """Processes of a run; each can be killed, frozen and started again.

    Attributes:
        home: folder of server, nodes and logs.
        sockets: of the nodes; short, since the kernel limits the path of a socket.
    """

    home: Path
    sockets: Path
    data_root: Path
    overrides: list[str]
    processes: dict[str, Forked] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        return self.home / "server" / "run"

    def start(self, name: str) -> None:
        paths = [f"dataset.train.root_local={self.data_root}",
                 f"photon.saving_path={self.home / name}"]  # fmt: skip
        if name == "server":
            work = server_process.main, self.sockets, [*SHAPE, *paths, *self.overrides]
        else:
            own = [*paths, "photon.workers=1", "photon.threads=1"]
            work = node_process.main, self.sockets, name, CLIENTS[name], own
        self.processes[name] = Forked(
            *work, log=self.home / f"{name}.txt", environment={"OMP_NUM_THREADS": "1"}
        )

    def kill(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def workers(self, name: str) -> list[int]:
        """Process ids of a node's workers."""
        children = Path(f"/proc/{self.processes[name].pid}/task").glob("*/children")
        return [int(pid) for path in children for pid in path.read_text().split()]

    def rounds(self) -> int:
        return len(read_lines(self.run / "metrics.jsonl"))

    def wait_for(self, rounds: int, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while self.rounds() < rounds:
            assert time.monotonic() < deadline, self.log("server")
            if self.processes["server"].poll() not in (None, 0):
                pytest.fail(self.log("server"))
            time.sleep(0.02)

    def finish(self, seconds: float = 90.0) -> None:
        """Wait for the server to end well."""
        assert self.processes["server"].wait(seconds) == 0, self.log("server")

    def log(self, name: str) -> str:
        path = self.home / f"{name}.txt"
        return path.read_text() if path.exists() else ""

    def homes(self) -> dict[int, Path]:
        return {int(c): self.home / n / "run" / "clients" / f"client_{c}"
                for n, c in CLIENTS.items()}  # fmt: skip


@pytest.fixture
def federate(tmp_path: Path, data_root: Path) -> Iterator:
    """Gives a federation of a server and two nodes, all started."""
    with tempfile.TemporaryDirectory(prefix="photon-") as sockets:
        made: list[Federation] = []

        def begin(*overrides: str) -> Federation:
            federation = Federation(tmp_path, Path(sockets), data_root, list(overrides))
            made.append(federation)
            for name in (*CLIENTS, "server"):
                federation.start(name)
            return federation

        yield begin
        for federation in made:
            for process in federation.processes.values():
                process.send_signal(signal.SIGCONT)
                process.terminate()
            for process in federation.processes.values():
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
