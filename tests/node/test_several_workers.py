"""Several workers on a machine: each has its GPU, and the fast ones train more clients."""

from __future__ import annotations

import sys
from collections import deque
from contextlib import closing
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

import photon
from photon.config import load_config
from photon.config.resolve import RunMachine, resolve
from photon.container.container import digest
from photon.core.messages import Broadcast, Instruction, RoundPlan
from photon.core.spread import Pace
from photon.errors import RoundFailed
from photon.machine.device import count_gpus
from photon.model.build import build_model, parameters_of
from photon.node import residents, team, worker_process
from photon.node.client_host import ClientHost
from photon.node.engine import WorkerPool
from photon.node.worker_process import WorkerProcess, devices_of
from photon.run.base import Base
from photon.run.checkpoint import (
    answer_path,
    load_parameters,
    load_update,
    newest_checkpoint,
)
from photon.run.trackers import read_lines
from photon.server import loop
from photon.server.records import time_record
from photon.training.parallel import ALONE

UNEVEN = Path(__file__).with_name("uneven_worker.py")


def parameters(result: Any) -> str:
    return digest(load_parameters(newest_checkpoint(Path(result.folder) / "checkpoints")))


def trained_by(result: Any, place: int) -> list[int]:
    return [int(line) for line in (Path(result.folder) / f"trained_by_{place}").read_text().split()]


def test_the_fast_one_trains_more_and_nobody_waits_for_the_slow_one(smoke, four, monkeypatch):
    """One client in the first round, when nothing is known, is all that the slow one gets. The
    bits are those of one process, and the parts of a device's time those of the round.
    """
    told = []

    def timed(phases, record, devices):
        before = phases.elapsed()
        went = time_record(phases, record, devices)
        told.append((before, sum(went["device_seconds"].values()), phases.elapsed(), devices))
        return went

    keys = [f"dataset.train.root_local={four}", "fl.n_total_clients=4", "fl.n_rounds=2",
            "photon.threads=1"]  # fmt: skip
    here = photon.train(smoke("run_uuid=here", *keys, "photon.workers=0"))
    monkeypatch.setattr(worker_process, "COMMAND", [sys.executable, str(UNEVEN)])
    monkeypatch.setattr(loop, "time_record", timed)
    shared = photon.train(smoke("run_uuid=shared", *keys, "photon.workers=2"))
    assert len(trained_by(shared, 1)) == 1
    assert sorted(trained_by(shared, 0)[3:]) == [0, 1, 2, 3], "all of the second round"
    assert parameters(shared) == parameters(here)
    for before, parts, after, devices in told:
        assert before <= parts <= after
        assert devices == 2
    for record in read_lines(Path(shared.folder) / "metrics.jsonl"):
        said = sum(one["train_seconds"] for one in record["client_metrics"].values())
        assert record["device_seconds"]["train"] == pytest.approx(said / 2, rel=1e-3)


def instruction(client: int, steps: int) -> Instruction:
    return Instruction(run="r", round=1, client=client, first_step=0, local_steps=steps,
                       base_digest="d", last_accepted=0)  # fmt: skip


@pytest.fixture
def pool(monkeypatch) -> WorkerPool:
    """Two workers that are ready and keep what they are sent."""
    monkeypatch.setattr(WorkerPool, "_start", lambda self: None)
    made = WorkerPool(Any, RunMachine.model_construct(workers=2, refresh_period=None), 8)  # pyright: ignore
    made.workers = [WorkerProcess(Any, SimpleNamespace(), p, ready=True) for p in (0, 1)]  # pyright: ignore
    return made


def hand_out(pool: WorkerPool, steps: dict[int, int], monkeypatch: Any) -> dict[int, dict]:
    """What each place is sent."""
    sent: dict[int, dict] = {}
    places = {id(worker.connection): worker.place for worker in pool.workers}
    monkeypatch.setattr(worker_process.frames, "try_send",
                        lambda to, task: sent.update({places[id(to)]: task}))  # fmt: skip
    waiting = deque(steps)
    plan: Any = SimpleNamespace(instructions={c: instruction(c, n) for c, n in steps.items()})
    pool._hand_out(waiting, plan, "base")
    assert set(waiting) == set(steps) - {task["instruction"]["client"] for task in sent.values()}
    return sent


def test_longest_first_and_the_next_is_known(pool, monkeypatch):
    pool.workers[0].pace, pool.workers[1].pace = Pace(1.0, 3), Pace(2.0, 3)
    sent = hand_out(pool, {5: 10, 6: 30, 7: 20, 8: 12}, monkeypatch)
    assert {p: task["instruction"]["client"] for p, task in sent.items()} == {0: 6, 1: 7}
    assert sent[0]["following"]["client"] == 8
    assert "following" not in sent[1] or sent[1]["following"]["client"] == 5


def test_workers_forget_their_clients_when_the_server_goes_back(pool, monkeypatch):
    """Once each, with the next client that they train."""
    told = []
    for number in (1, 2, 2, 3):
        pool._note_return(number)
        for _ in range(2):
            told.append(
                [task["forget"] for task in hand_out(pool, {0: 1, 1: 1}, monkeypatch).values()]
            )
            for worker in pool.workers:
                worker.client = None
    assert told == [[False] * 2] * 4 + [[True] * 2] + [[False] * 2] * 3


@pytest.mark.parametrize("keys", [["fl.aggregate_momenta=false"], ["fl.overlap=delayed"]])
def test_a_client_goes_on_from_its_round_that_counts(smoke, tmp_path, monkeypatch, keys):
    """Its first attempt at it was trained here, and dropped by the server; another worker has
    trained it again. Moments on the device, what was read ahead, and steps that were taken ahead
    are of the first one.
    """
    monkeypatch.setattr(residents, "spare_bytes", lambda device: 1 << 30)
    run = resolve(smoke(*keys, "llm_config.local_steps=2"), cores=1, accelerator=0, run_uuid="r")
    params = parameters_of(build_model(run.inner, run.seed))
    bases = {digest: Broadcast(params={n: v * factor for n, v in params.items()})
             for digest, factor in (("dropped", 2.0), ("counts", 1.0), ("next", 1.0))}  # fmt: skip
    monkeypatch.setattr(team, "_base_at", lambda path: bases[path.name])

    def trained(host: ClientHost, number: int, base: str, forget: bool = False) -> str:
        one = Instruction(run="r", round=number, client=0, first_step=2 * (number - 1),
                          local_steps=2, base_digest=base, last_accepted=number - 1,
                          ahead=2 * (number - 1) if run.federation.most_ahead else 0)  # fmt: skip
        task = {"instruction": asdict(one), "base": base, "forget": forget}
        path = team.lead(host, ALONE, task, lambda: False).result()
        host.files.read_ahead(replace(one, round=number + 1, last_accepted=number))
        host.go_on(lambda: False)
        return digest(dict(load_update(path).gradient))

    here, other, fresh = (ClientHost(run, tmp_path, torch.device("cpu")) for _ in range(3))
    with closing(here), closing(other), closing(fresh):
        trained(here, 1, "dropped")
        trained(other, 1, "counts")
        found = trained(here, 2, "next", forget=True)
        answer_path(tmp_path, 0, 2).unlink()
        assert found == trained(fresh, 2, "next")


def test_whole_turns_tell_the_pace(pool, monkeypatch):
    """Of 10 steps in 20 seconds; not of one that had taken some before, nor of a kept answer."""
    now = [100.0]
    monkeypatch.setattr(worker_process.time, "monotonic", lambda: now[0])
    first = pool.workers[0]
    for taken, expected in ((7, None), (10, Pace(2.0, 1)), (0, Pace(2.0, 1)), (10, Pace(2.0, 2))):
        hand_out(pool, {0: 10, 1: 10}, monkeypatch)
        now[0] += 20.0
        for worker in pool.workers:
            if worker is not first:
                worker.client = None
        first.note_trained(taken)
        assert first.pace == expected
        assert first.writing == {0}
        first.note_end(0)


def test_who_is_left_out_is_held_for_faster(pool):
    used, unused = pool.workers
    used.pace, unused.pace, used.is_used = Pace(1.0, 2), Pace(8.0, 2), True
    pool._refresh()
    assert (used.pace.seconds, unused.pace.seconds) == (1.0, 6.0)


@pytest.mark.parametrize(
    ("command", "timeout", "reason"),
    [(["false"], 60.0, "ended with code 1 before it was ready; its message is above"),
     ([sys.executable, "-c", "import time; time.sleep(60)"], 0.1,
      r"was not ready after 0.1 s \(photon.worker_timeout\)")],
)  # fmt: skip
def test_a_round_whose_workers_cannot_start_fails_however_often_it_is_tried(
    monkeypatch, tmp_path, command, timeout, reason
):
    """The pool had one fewer after each, and then waited for nobody, for ever."""
    monkeypatch.setattr(worker_process, "COMMAND", command)
    machine = RunMachine.model_construct(
        workers=2, worker_timeout=timeout, refresh_period=None, device="cpu", devices_per_client=1,
        threads=1,
    )  # fmt: skip
    plan = RoundPlan(round=1, cohort=(0,), instructions={0: instruction(0, 1)}, base_digest="d")
    base, asked = Base.at(tmp_path, cast(Any, None), cast(Any, None)), count()
    with open(tmp_path / "lock", "w", encoding="utf-8") as lock:
        folder = cast(Any, SimpleNamespace(path=tmp_path, lock_fd=lock.fileno()))
        with closing(WorkerPool(folder, machine, 1)) as pool:
            for _ in range(4):
                with pytest.raises(RoundFailed, match=reason):
                    list(pool.run_round(plan, base, deque([0]), lambda: next(asked) > 200))


def gpus(monkeypatch: Any, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_auto_is_a_worker_for_each_gpu(monkeypatch):
    gpus(monkeypatch, 3)
    config = load_config(["recipe=smoke", "fl.n_total_clients=8", "photon.workers=auto"])
    run = resolve(config, cores=16, accelerator=count_gpus(config.machine.device), run_uuid="r")
    assert run.machine.workers == 3
    assert [devices_of(run.machine, place)[0] for place in range(3)] == [
        "cuda:0",
        "cuda:1",
        "cuda:2",
    ]


@pytest.mark.parametrize(
    ("count", "keys", "expected"),
    [
        (2, {}, [("cuda:0", "0"), ("cuda:1", "1"), ("cuda:0", "0")]),
        (1, {}, [("auto", "0")] * 3),
        (0, {}, [("auto", "0"), ("auto", "1"), ("auto", "2")]),
        (4, {"device": "cuda:2"}, [("cuda:2", "0")] * 3),
        (4, {"devices_per_client": 2}, [("auto", "0"), ("auto", "2"), ("auto", "0")]),
        (5, {"devices_per_client": 2}, [("auto", "0"), ("auto", "2"), ("auto", "0")]),
    ],
)
def test_each_has_its_gpus_and_more_workers_share_them(monkeypatch, count, keys, expected):
    gpus(monkeypatch, count)
    machine = RunMachine.model_construct(**{"device": "auto", "devices_per_client": 1, **keys})
    assert [devices_of(machine, place) for place in range(3)] == expected
