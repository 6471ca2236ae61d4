"""The same over Flower with TLS and keys: everything that can die, and the same bits."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from history import faults_of_run
from test_kills import LENGTH, ROWS_PER_ROUND, final

import photon
from photon.machine.address import free_port
from photon.run.trackers import read_lines
from proxy import Proxy, Shape

pytest.importorskip("flwr")
ROUNDS = 5
MANY_OPTIONS = [
    "fl.personalized_layers=[blocks.0.attention.*]", "fl.frozen_layers=[embedding.weight]",
    "fl.random_layers=[norm.weight]", "fl.random_init_freq=6", "fl.scaling_fn=sqrt",
    "fl.outer_schedule.name=cosine", "fl.reset_timestamp=true", "fl.use_noise_scale_metric=true",
]  # fmt: skip
"""Options that meet in one run, on the local engine and over Flower."""


class Processes:
    """`photon` commands with their logs."""

    def __init__(self, home: Path) -> None:
        self.home, self.running = home, {}

    def run(self, *arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "photon", *arguments], cwd=self.home, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self, name: str, *arguments: str) -> None:
        with open(self.home / f"{name}.txt", "ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "photon", *arguments], cwd=self.home, stdout=log, stderr=log,
                start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait()

    def log(self, name: str) -> str:
        return (self.home / f"{name}.txt").read_text()

    def logs(self) -> str:
        return "\n".join(f"== {path.stem}\n{path.read_text()}" for path in self.home.glob("*.txt"))

    def close(self) -> None:
        for process in self.running.values():
            process.send_signal(signal.SIGINT)
        for process in self.running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()


def of_command(*words: str) -> list[int]:
    """Process ids whose command line holds all the words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if all(word in line for word in words) and "photon.machine.guard" not in line:
                found.append(int(path.parent.name))
    return found


def wait_until(what, processes: Processes, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, processes.logs()
        time.sleep(0.1)


def test_a_federation_over_flower_survives_what_can_happen(tmp_path, data_root):
    """A stranger's key, a slow and lossy link, a node that is killed, the SuperLink killed, the
    server killed; then the bits of the local engine."""
    shape = ["recipe=smoke", f"fl.n_rounds={ROUNDS}", "fl.eval_period=null", *MANY_OPTIONS,
             "llm_config.save_interval=1", f"dataset.train.root_local={data_root}"]  # fmt: skip
    local = photon.train([*shape, f"photon.saving_path={tmp_path / 'local'}"])
    port, processes = free_port(), Processes(tmp_path)
    processes.run("keys", "init")
    for name, clients in (("a", "0"), ("b", "1"), ("stranger", "0-1")):
        processes.run("keys", "add", name, "--clients", clients)
    processes.run("keys", "remove", "stranger")
    link = Proxy(("127.0.0.1", port), Shape(delay=0.005, loss=0.01))
    run = tmp_path / "server" / "run"

    def server() -> None:
        processes.start("server", "server", "--listen", f"127.0.0.1:{port}", "run_uuid=run",
                        f"photon.saving_path={tmp_path / 'server'}", "photon.n_nodes=2",
                        "fl.failed_rounds=retry", *shape)  # fmt: skip

    def node(name: str, clients: str, to: int) -> None:
        processes.start(name, "node", "--server", f"127.0.0.1:{to}", "--name", name, "--clients",
                        clients, f"photon.saving_path={tmp_path / name}",
                        f"dataset.train.root_local={data_root}")  # fmt: skip

    def rounds() -> int:
        return len(read_lines(run / "metrics.jsonl"))

    try:
        server()
        node("a", "0", link.port)
        node("b", "1", port)
        node("stranger", "0-1", port)
        wait_until(lambda: rounds() >= 1, processes)
        assert "stranger" not in processes.log("server")
        stranger = processes.running.pop("stranger")
        stranger.send_signal(signal.SIGINT)
        stranger.wait(30)

        processes.kill("b")
        node("b", "1", port)
        wait_until(lambda: rounds() >= 2, processes)

        for pid in of_command("superlink_process", str(tmp_path)):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: rounds() >= 3, processes)

        processes.kill("server")
        wait_until(lambda: not of_command("superlink_process", str(tmp_path)), processes, 20)
        server()
        assert processes.running["server"].wait(180) == 0, processes.logs()
    finally:
        processes.close()
        link.close()
    homes = {c: tmp_path / n / "run" / "clients" / f"client_{c}" for n, c in (("a", 0), ("b", 1))}
    assert faults_of_run(run, homes, ROWS_PER_ROUND, LENGTH) == []
    assert final(run) == final(Path(local.folder))
    for words in (("_process", str(port)), ("_process", str(tmp_path)), ("flower-", str(tmp_path))):
        wait_until(lambda words=words: not of_command(*words), processes, 20)
