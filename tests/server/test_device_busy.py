"""`device_busy` and `device_seconds` of real rounds, and how many devices there are."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import photon
from loopback import nodes, train
from photon.config.resolve import RunMachine
from photon.node.engine import InProcess, WorkerPool
from photon.report.console import progress_line
from photon.run.trackers import numbers, read_lines
from photon.server import loop
from photon.server.records import Phases, time_record
from photon.server.remote import RemoteEngine
from photon.wire.messages import MOST_DEVICES, Trained


def records_of(result: Any) -> list[dict[str, Any]]:
    return read_lines(Path(result.folder) / "metrics.jsonl")


def record_of(*metrics: dict[str, float], late: int = 0) -> dict[str, Any]:
    """What `time_record` looks at in a round of these clients."""
    clients = {str(number): own for number, own in enumerate(metrics)}
    return {"client_metrics": clients, "accepted": [*clients], "late": {"0": late} if late else {}}


def test_the_parts_are_the_rounds_and_the_rounds_are_the_run(smoke):
    """Nothing between two rounds is left out, nor counted twice."""
    begun = time.monotonic()
    found = records_of(photon.train(smoke("photon.workers=0", "fl.n_rounds=3")))
    whole = time.monotonic() - begun
    rounds = [sum(one["device_seconds"].values()) for one in found]
    assert sum(rounds) < whole
    for one, seconds in zip(found, rounds, strict=True):
        spent, phases = one["device_seconds"], one["phase_seconds"]
        assert one["device_busy"] == pytest.approx(spent["train"] / seconds)
        assert min(spent.values()) >= 0
        for name in ("aggregate", "validate"):
            assert spent[name] == pytest.approx(phases[name])
        said = sum(m.get("train_seconds", 0.0) for m in one["client_metrics"].values())
        assert spent["train"] == pytest.approx(min(said, seconds), rel=1e-3)
    commits = [one["device_seconds"]["commit"] for one in found]
    assert commits[0] < min(commits[1:]), "a commit is in the round after it"


def test_by_the_clock():
    """Ten seconds, of which two clients trained four each on two devices; a failed attempt, too."""
    now = [100.0]
    phases = Phases(100.0, lambda: now[0])
    with phases.timing("commit"):
        now[0] += 1
    with phases.timing("train"):
        now[0] += 3
    phases = phases.of_next_attempt()
    with phases.timing("train"):
        now[0] += 4
    with phases.timing("aggregate"):
        now[0] += 2
    found = time_record(phases, record_of({"train_seconds": 4.0}, {"train_seconds": 4.0}), 2)
    assert found["phase_seconds"] == {"commit": 1.0, "train": 4.0, "aggregate": 2.0}
    assert phases.total() == 6.0, "as the seconds of a record"
    assert found["device_busy"] == pytest.approx(0.4)
    assert found["device_seconds"] == pytest.approx({
        "train": 4.0, "load": 0.0, "encode": 0.0, "write": 0.0, "wait": 3.0, "aggregate": 2.0,
        "validate": 0.0, "commit": 1.0,
    })  # fmt: skip


def test_the_seconds_of_a_masked_round_are_those_of_its_unmasking_too():
    """That is where its updates travel."""
    now = [0.0]
    phases = Phases(0.0, lambda: now[0])
    for name, seconds in (("train", 2), ("unmask", 5), ("aggregate", 1), ("validate", 4)):
        with phases.timing(name):
            now[0] += seconds
    assert phases.total() == 8.0


@pytest.mark.parametrize(("late", "busy"), [(0, 0.25), (1, 0.5), (3, 1.0), (9, 1.0)])
def test_an_update_that_was_made_over_several_merges_counts_whole(late, busy):
    """Four clients train ten seconds each on a device of their own; one of them comes every 2.5."""
    now = [0.0]
    phases = Phases.beginning(lambda: now[0])
    for _ in range(3):
        now[0] += 2.5
        phases = phases.of_next_round()
    now[0] += 2.5
    found = time_record(phases, record_of({"train_seconds": 10.0}, late=late), 4)
    assert found["device_busy"] == pytest.approx(busy)
    assert sum(found["device_seconds"].values()) == pytest.approx(2.5)


def test_every_line_and_every_tracker_has_it(smoke):
    record = records_of(photon.train(smoke("photon.workers=0", "fl.n_rounds=1")))[0]
    assert "  busy 93%  " in progress_line(record | {"device_busy": 0.934}, "federated")
    assert {"device_busy", "device_seconds/train", "device_seconds/wait"} <= numbers(record).keys()


def test_an_engine_says_how_many_devices_train(monkeypatch):
    assert InProcess(Any, 4).devices == 1
    monkeypatch.setattr(WorkerPool, "_start", lambda self: None)
    pool = WorkerPool(Any, RunMachine.model_construct(workers=3), 4)
    pool.close()
    assert pool.devices == 3


def test_devices_are_those_of_the_nodes_that_are_here(smoke):
    engine: Any = RemoteEngine(smoke("run_uuid=r"), {}, *[Any] * 3, print)
    here = {"x": SimpleNamespace(name="a"), "y": SimpleNamespace(name="b")}
    engine.roster = SimpleNamespace(members=here)
    engine._devices = {"a": 4, "gone": 8}
    assert engine.devices == 4 + 1
    engine.roster.members = {}
    assert engine.devices == 1


@pytest.mark.parametrize("devices", [0, -1, MOST_DEVICES + 1, "many"])
def test_a_node_cannot_say_any_number(devices):
    with pytest.raises(ValueError, match="devices"):
        Trained(devices=devices)


def test_nodes_tell_their_devices(smoke, data_root, tmp_path, monkeypatch):
    counted = []

    def noted(phases, record, devices):
        counted.append(devices)
        return time_record(phases, record, devices)

    monkeypatch.setattr(loop, "time_record", noted)
    monkeypatch.setattr(InProcess, "devices", 3)
    config = smoke("run_uuid=r", "photon.n_nodes=2", "fl.n_rounds=1")
    with nodes(tmp_path, data_root, {"a": [0], "b": [1]}) as sockets:
        train(config, sockets)
    assert counted == [6]
