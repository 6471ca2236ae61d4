"""Rounds without some of their clients: spares, failures, quorums, stragglers, policies."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from four_clients import PLACES

import photon
from loopback import final_digest, nodes, train
from photon.core.policy import oldest_taken
from photon.core.traffic import Traffic
from photon.errors import PayloadError, RoundFailed
from photon.node import hosted_run
from photon.run.trackers import read_lines
from photon.server.remote import RemoteEngine
from photon.server.rules import rules_of
from photon.wire.buffers import Buffers
from photon.wire.messages import Cancel, unpack_request


def test_a_round_with_spare_clients_closes_with_the_first(make, four, tmp_path):
    shape = ["fl.n_clients_per_round=2", "fl.oversample=2", "fl.n_rounds=1"]
    with nodes(tmp_path, four, PLACES) as sockets:
        train(make("run_uuid=r", *shape), sockets)
    (record,) = read_lines(tmp_path / "server" / "r" / "metrics.jsonl")
    assert len(record["accepted"]) == 2
    rest = record["spare"] + [int(c) for c in record["missing"]]
    assert sorted(record["accepted"] + rest) == [0, 1, 2, 3]


def test_a_client_that_fails_on_one_node_is_trained_on_another(make, four, local, tmp_path):
    """Node b has no data of client 1, whatever it says; node a has them all."""
    empty = tmp_path / "empty"
    with (
        nodes(tmp_path, four, {"a": [0, 1, 2, 3]}) as good,
        nodes(tmp_path, empty, {"b": [1, 3]}) as bad,
    ):
        (good / "b.sock").symlink_to(bad / "b.sock")
        lines: list[str] = []
        result = train(make("run_uuid=r"), good, lines)
    assert final_digest(result) == local["averaged"]
    assert any("on node b" in line and "trying again" in line for line in lines)


@pytest.mark.parametrize("key", ["fl.quorum=3", "fl.accept_failures_cnt=1"])
def test_a_quorum_closes_a_round_and_the_report_says_who_is_missing(make, four, tmp_path, key):
    empty = tmp_path / "empty"
    with (
        nodes(tmp_path, four, {"a": [0, 1, 2]}) as good,
        nodes(tmp_path, empty, {"b": [3]}) as bad,
    ):
        (good / "b.sock").symlink_to(bad / "b.sock")
        result = train(make("run_uuid=r", key), good)
    for record in read_lines(tmp_path / "server" / "r" / "metrics.jsonl"):
        assert record["accepted"] == [0, 1, 2]
        assert "node b" in record["missing"]["3"]
    assert result.federated is not None


@pytest.mark.parametrize(("quorum", "asked"), [(3, [0, 1, 2]), (4, [0, 1, 2, 3])])
def test_a_client_whose_late_update_waits_is_asked_only_if_needed(make, quorum, asked):
    one = SimpleNamespace(clients=range(4))
    everybody = SimpleNamespace(members={"n": one})
    config: Any = make(f"fl.quorum={quorum}")
    nothing: Any = None
    engine = RemoteEngine(config, {}, nothing, cast(Any, everybody), nothing, print)
    engine._arrived_late = [cast(Any, SimpleNamespace(clients=(3,)))]
    assert engine._free() == asked


@pytest.mark.parametrize(
    ("keys", "cancelled"),
    [([], ["n1", "n2", "n3"]), (["fl.staleness_exponent=0.5", "fl.max_staleness=2"], ["n1"])],
)
def test_nobody_trains_on_for_a_round_that_takes_it_no_more(make, keys, cancelled):
    sent = []
    nothing: Any = None
    link: Any = SimpleNamespace(send=lambda address, request: sent.append((address, request)))
    run = make("run_uuid=r", *keys)
    engine = RemoteEngine(run, {}, link, nothing, nothing, print)
    round_of = lambda number: SimpleNamespace(plan=SimpleNamespace(round=number))  # noqa: E731
    late: Any = {
        f"e{n}": SimpleNamespace(
            address=f"n{n}", of=round_of(n),
            errand=SimpleNamespace(clients=[n], traffic=Traffic(up=Counter(rest=n))),
        ) for n in (1, 2, 3)
    }  # fmt: skip
    engine._errands = dict(late)
    before = oldest_taken(4, rules_of(run.federation, True))
    engine.cancel(before)
    assert [address for address, _ in sent] == cancelled
    assert all(unpack_request(request) == Cancel(run="r", before=before) for _, request in sent)
    assert [e.address for e in engine._errands.values()] == [
        f"n{n}" for n in (1, 2, 3) if f"n{n}" not in cancelled
    ]
    assert engine.take_traffic().bytes_up == sum(int(name[1:]) for name in cancelled)
    assert engine.take_traffic().bytes_up == 0


def test_the_bytes_of_an_answer_that_nobody_awaits_any_more_are_counted(make):
    """A straggler's update was on its way as the round was closed without it."""
    nothing, came = cast(Any, None), [("e1", Buffers(bytes(700))), ("of nobody", Buffers(b"hi"))]
    link: Any = SimpleNamespace(send=lambda *message: "c", answers=lambda seconds: came)
    roster: Any = SimpleNamespace(refresh=lambda: None, take=lambda *answer: None)
    engine = RemoteEngine(make("run_uuid=r"), {}, link, roster, nothing, print)
    errand = SimpleNamespace(clients=[1, 2], traffic=Traffic())
    of = SimpleNamespace(plan=SimpleNamespace(round=1))
    engine._errands = {"e1": cast(Any, SimpleNamespace(address="n", of=of, errand=errand))}
    engine.cancel(2)
    assert engine._listen(None) == []
    found = engine.take_traffic()
    assert (found.bytes_up, found.clients) == (700, {1: [350, 0], 2: [350, 0]})
    engine._listen(None)
    assert engine.take_traffic().bytes_up == 0, "once"


@pytest.mark.parametrize("exponent", ["null", "0.5"])
def test_a_straggler_is_refused_or_counts_later(make, four, tmp_path, monkeypatch, exponent):
    """Client 3 is done with round 1 when round 1 has been closed without it."""
    metrics = tmp_path / "server" / "r" / "metrics.jsonl"
    train_now = hosted_run.HostedRun.train

    def slow(self, request, should_stop):
        if request.round == 1 and [i.client for i in request.instructions] == [3]:
            deadline = time.monotonic() + 30
            while not read_lines(metrics) and time.monotonic() < deadline:
                time.sleep(0.02)
        return train_now(self, request, should_stop)

    monkeypatch.setattr(hosted_run.HostedRun, "train", slow)
    keys = ["fl.quorum=3", "fl.round_timeout=2", "fl.round_timeout_min=2", "fl.n_rounds=4",
            f"fl.staleness_exponent={exponent}"]  # fmt: skip
    with nodes(tmp_path, four, {"a": [0, 1, 2], "b": [3]}) as sockets:
        train(make("run_uuid=r", *keys), sockets)
    records = read_lines(metrics)
    assert records[0]["accepted"] == [0, 1, 2]
    assert records[0]["missing"] == {"3": "late"}
    late = [record["late"] for record in records]
    if exponent == "null":
        assert late == [{}] * 4
    else:
        (number,) = [n for n, entry in enumerate(late) if entry]
        assert late[number] == {"3": number}
        assert sum(3 in record["accepted"] for record in records) == 4 - number
        assert not any(record["refused"] for record in records), "nobody trains for nothing"
    assert sum(len(record["accepted"]) for record in records) * 3 * 2 * 32 == records[-1]["tokens"]


@pytest.mark.parametrize("policy", ["stop", "retry", "skip"])
def test_a_round_without_a_quorum_follows_the_policy(make, four, tmp_path, policy):
    """Client 3 has no data anywhere."""
    empty = tmp_path / "empty"
    config = make("run_uuid=r", f"fl.failed_rounds={policy}", "fl.round_attempts=2")
    with (
        nodes(tmp_path, four, {"a": [0, 1, 2]}) as good,
        nodes(tmp_path, empty, {"b": [3]}) as bad,
    ):
        (good / "b.sock").symlink_to(bad / "b.sock")
        lines: list[str] = []
        if policy == "skip":
            with pytest.warns(photon.errors.PhotonWarning, match="fl.failed_rounds=skip"):
                train(config, good, lines)
        elif policy == "retry":
            with (
                pytest.warns(photon.errors.PhotonWarning, match="fl.failed_rounds=retry"),
                pytest.raises(RoundFailed, match=r"3 of 4 updates .* client 3: node b"),
            ):
                train(config, good, lines)
        else:
            with pytest.raises(RoundFailed, match=r"3 of 4 updates .* client 3: node b"):
                train(config, good, lines)
    records = read_lines(tmp_path / "server" / "r" / "metrics.jsonl")
    assert [r["accepted"] for r in records] == ([[], []] if policy == "skip" else [])
    assert not any("train_loss" in r or "train_perplexity" in r for r in records), "0 would be one"


def test_a_state_that_was_never_accepted_is_not_gone_on_from(make, four, tmp_path, monkeypatch):
    """Node a goes away with its update of round 2, which b trains anew; then b does."""
    train_now = hosted_run.HostedRun.train
    homes: list[Path] = []

    def train_there(self, request, should_stop):
        node = self.folder.path.parent.name
        if (node, request.round) == ("b", 3):
            raise PayloadError("away")
        done = train_now(self, request, should_stop)
        if (node, request.round) == ("a", 2):
            (homes[0] / "b.sock").symlink_to(homes[1] / "b.sock")
            raise PayloadError("away")
        return done

    monkeypatch.setattr(hosted_run.HostedRun, "train", train_there)
    shape = ["fl.n_total_clients=1", "fl.n_rounds=3", "photon.n_nodes=1"]
    with nodes(tmp_path, four, {"a": [0]}) as one, nodes(tmp_path, four, {"b": [0]}) as other:
        homes += one, other
        train(make("run_uuid=r", *shape), one)
    lost = [one["state_lost"] for one in read_lines(tmp_path / "server" / "r" / "metrics.jsonl")]
    assert lost == [[], [0], [0]], "what a has of round 2 is not what was merged"
