"""The benchmark of peers counts and divides right, and says who is faster and who is missing."""

from __future__ import annotations

import importlib
import socket
import threading
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(name="bench")
def _bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def rounds(peer: str, pair: int, seconds: list[float], cpu: float, **more) -> dict:
    return {"part": "rounds", "peer": peer, "megabytes": 2.0, "pair": pair, "seconds": seconds,
            "cpu_seconds": cpu, "server_megabytes": 300.0, "node_megabytes": 200.0,
            "up_megabytes": 3.0, "down_megabytes": 2.0, "load": 4.0, **more}  # fmt: skip


def test_ratios_are_of_a_pair_and_a_faster_peer_is_marked(bench):
    records = [rounds("photon", 0, [4.0, 6.0, 5.0], 8.0), rounds("flower", 0, [10.0], 4.0),
               rounds("photon", 1, [100.0], 80.0), rounds("flower", 1, [100.0], 40.0),
               rounds("torchft", 1, [50.0], 160.0)]  # fmt: skip
    lines = bench("peer_table").table(records).splitlines()
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in lines if "|" in line}
    assert [rows["flower"][n].strip(" |") for n in (1, 2, 3)] == ["2", "55", "22"]
    assert [rows["flower"][n].strip(" |") for n in (6, 7)] == ["1.50", "1.00"]
    assert [rows["flower"][n].strip(" |") for n in (8, 9)] == ["0.5 (peer faster)", "1.5"]
    assert [rows["torchft"][n].strip(" |") for n in (8, 9)] == ["2", "0.5 (peer faster)"]


def test_a_peer_that_cannot_be_had_is_named_with_the_reason(bench, monkeypatch):
    peers, table = bench("peers"), bench("peer_table").table
    monkeypatch.setitem(peers.PACKAGES, "torchft", "photon_no_such_module")
    reason = peers.missing("torchft")
    assert reason == "ModuleNotFoundError: No module named 'photon_no_such_module'"
    assert peers.missing("photon") is None
    record = {"part": "rounds", "peer": "torchft", "megabytes": 1.0, "pair": 0, "missing": reason}
    assert f"torchft could not be run: {reason}" in table([record])
    assert "could not be run" not in table([record, rounds("torchft", 0, [1.0], 1.0)])


def test_what_is_in_the_log_is_not_measured_again(bench):
    peers, key = bench("peers"), {"part": "scores", "peer": "lm-eval", "task": "a"}
    arguments = peers.parsed(["scores", "--tasks", "a", "b"])
    done = [{**key, "ratio": 1.0}]
    assert [r["task"] for r in peers.scores(arguments, done)] == ["b"]
    assert [r["task"] for r in peers.scores(arguments, [{**key, "missing": "it"}])] == ["a", "b"]


def test_the_proxy_counts_every_byte(bench):
    server = socket.create_server(("127.0.0.1", 0))
    proxy = bench("counting_proxy").CountingProxy(server.getsockname()[1])
    sent, answer = b"u" * 3_000_001, b"d" * 700_001

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            left = len(sent)
            while left:
                left -= len(connection.recv(1 << 16))
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(sent)
        came = b"".join(iter(lambda: client.recv(1 << 16), b""))
    thread.join()
    server.close()
    proxy.close()
    assert (came == answer, proxy.up, proxy.down) == (True, len(sent), len(answer))
