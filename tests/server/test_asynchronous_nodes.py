"""Asynchronous merges over sockets: nobody is waited for, nothing is lost or counted twice."""

from __future__ import annotations

import threading
import time
from collections import deque
from types import SimpleNamespace
from typing import Any, cast

import pytest
from four_clients import PLACES, SHAPE

import photon
from loopback import final_digest, nodes, train
from photon.config import load_config
from photon.core import policy
from photon.core.messages import RoundPlan
from photon.node import hosted_run
from photon.run.trackers import read_lines
from photon.server.remote import RemoteEngine

EACH = 3 * 2 * 32
"""Tokens of a client's update."""


@pytest.fixture
def make(four, tmp_path):
    def configuration(*overrides: str):
        paths = [f"dataset.train.root_local={four}", f"photon.saving_path={tmp_path / 'server'}"]
        return load_config(["recipe=smoke", *paths, *SHAPE, "run_uuid=r", "fl.mode=async",
                            *overrides])  # fmt: skip

    return configuration


@pytest.fixture
def merged(tmp_path):
    """Gives the records so far."""
    return lambda: read_lines(tmp_path / "server" / "r" / "metrics.jsonl")


@pytest.fixture
def hold(monkeypatch):
    """Has the first training of a client begin when something is so, or half a minute later."""
    train_now, held = hosted_run.HostedRun.train, []

    def begin(released, client=3):
        def slow(self, request, should_stop):
            if [i.client for i in request.instructions] == [client] and not held:
                held.append(request.round)
                deadline = time.monotonic() + 30
                while not released() and time.monotonic() < deadline:
                    time.sleep(0.02)
            return train_now(self, request, should_stop)

        monkeypatch.setattr(hosted_run.HostedRun, "train", slow)

    return begin


def test_merges_of_a_whole_cohort_give_the_bits_of_synchronous_rounds(
    make, four, tmp_path, monkeypatch
):
    monkeypatch.setattr(policy, "GRACE", 1e6)
    sync = photon.train(["recipe=smoke", f"dataset.train.root_local={four}", *SHAPE,
                         f"photon.saving_path={tmp_path / 'local'}"])  # fmt: skip
    with nodes(tmp_path, four, PLACES) as sockets:
        result = train(make("fl.buffer=4"), sockets)
    assert final_digest(result) == final_digest(sync)


def test_who_is_slow_trains_on_and_counts_later_for_less(make, four, tmp_path, hold, merged):
    hold(lambda: len(merged()) >= 4)
    with nodes(tmp_path, four, {"a": [0, 1, 2], "b": [3]}) as sockets:
        result = train(make("fl.buffer=3", "fl.n_rounds=5"), sockets)
    records = merged()
    assert [r["accepted"] for r in records[:4]] == [[0, 1, 2]] * 4
    assert not any(r["missing"] or r["refused"] for r in records), "nobody trains for nothing"
    came = next(r for r in records if "3" in r["late"])  # on a busy machine it is late again
    late = came["late"]["3"]
    assert late == came["round"] - 1 >= 4
    on_time = len(came["accepted"]) - 1
    assert came["share"] == pytest.approx((on_time + (1 + late) ** -0.5) / 4)
    assert sum(len(r["accepted"]) for r in records) * EACH == records[-1]["tokens"]
    assert result.federated is not None
    assert result.federated.tokens >= 5 * 4 * EACH


def test_who_comes_back_after_long_gets_the_newest_state(make, four, tmp_path, hold, merged):
    """What it made of an old one is not waited for any more."""
    hold(lambda: len(merged()) >= 3)
    with nodes(tmp_path, four, {"a": [0, 1, 2], "b": [3]}) as sockets:
        train(make("fl.buffer=3", "fl.n_rounds=6", "fl.max_staleness=1"), sockets)
    records = merged()
    back = [r for r in records if 3 in r["accepted"]]
    assert back
    assert back[0]["round"] > 3
    assert all(r["late"].get("3", 0) <= 1 for r in back), "of the first round nothing counts"
    assert not any(r["refused"] for r in records)


def test_a_node_that_comes_while_a_merge_is_open_begins_at_once(make, four, tmp_path, hold, merged):
    """The one that was here from the beginning has no update before there is a merge."""
    hold(merged, client=0)
    with nodes(tmp_path, four, {"a": [0]}) as here, nodes(tmp_path, four, {"b": [1, 2, 3]}) as far:
        come = threading.Timer(0.5, lambda: (here / "b.sock").symlink_to(far / "b.sock"))
        come.start()
        train(make("fl.buffer=1", "fl.n_rounds=1", "photon.n_nodes=1"), here)
        come.join()
    assert 0 not in merged()[0]["accepted"]


def test_a_merge_in_which_nobody_is_free_waits_for_those_that_train(make):
    nothing: Any = None
    link: Any = SimpleNamespace(answers=lambda seconds: [])
    roster: Any = SimpleNamespace(members={}, refresh=lambda: None)
    depot: Any = SimpleNamespace(publish=lambda *given: None)
    engine = RemoteEngine(make(), {}, link, roster, depot, print)
    errand = SimpleNamespace(clients=[3], way=SimpleNamespace(payloads=()))
    engine._errands = {"one": cast(Any, SimpleNamespace(of=None, address="n", errand=errand))}
    assert engine.busy == 1
    plan = RoundPlan(round=2, cohort=(), instructions={}, base_digest="")
    arrivals = engine.run_round(plan, nothing, deque(), lambda: False)
    assert next(arrivals) is None
    engine._errands.clear()
    assert list(arrivals) == []
