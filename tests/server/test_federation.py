"""Server and nodes over sockets: the bits of the local engine, whatever carries the payloads."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time
from collections import Counter, deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

import loopback
import photon
from loopback import final_digest, nodes, over_sockets, train
from photon.config import load_config
from photon.container.container import write_container
from photon.core.parts import parts_of
from photon.core.policy import oldest_taken
from photon.core.traffic import Traffic
from photon.data.prepare.embedded import prepare_embedded
from photon.errors import (
    ConfigError,
    Interrupted,
    PayloadError,
    RoundFailed,
    RunFolderError,
    StorageError,
)
from photon.experiment import experiment
from photon.experiment.job import EngineFactory
from photon.node import hosted_run
from photon.node.service import NodeService
from photon.run import checkpoint
from photon.run.going_on import how_to_go_on
from photon.run.run_folder import read_facts
from photon.run.trackers import read_lines
from photon.server.remote import MAX_ATTEMPTS, RemoteEngine, _OpenRound
from photon.server.roster import Member, Roster
from photon.server.rules import rules_of
from photon.wire import inline
from photon.wire.chunks import ChunkWriter
from photon.wire.enrolment import (
    Enrolled,
    Register,
    format_clients,
    parse_clients,
    read_register,
)
from photon.wire.messages import Cancel, unpack_request

SHAPE = ["fl.n_total_clients=4", "fl.n_rounds=2", "photon.n_nodes=2"]
PLACES = {"a": [0, 2], "b": [1, 3]}


@pytest.fixture
def make(four, tmp_path):
    def configuration(*overrides: str):
        paths = [f"dataset.train.root_local={four}", f"photon.saving_path={tmp_path / 'server'}"]
        return load_config(["recipe=smoke", *paths, *SHAPE, *overrides])

    return configuration


@pytest.fixture(scope="module")
def local(four, tmp_path_factory):
    """The run on the local engine: with moments averaged, and with moments kept."""
    home = tmp_path_factory.mktemp("local")
    shared = ["recipe=smoke", f"dataset.train.root_local={four}", f"photon.saving_path={home}",
              *SHAPE]  # fmt: skip
    return {
        "averaged": final_digest(photon.train([*shared, "run_uuid=averaged"])),
        "kept": final_digest(
            photon.train([*shared, "run_uuid=kept", "fl.aggregate_momenta=false"])
        ),
    }


@pytest.mark.parametrize("state", ["averaged", "kept"])
@pytest.mark.parametrize("via", ["inline", "shm", "s3"])
def test_remote_nodes_give_the_bits_of_the_local_engine(
    make, four, local, tmp_path, s3, state, via
):
    extra = ["fl.aggregate_momenta=false"] if state == "kept" else []
    if via == "s3":
        extra.append(f"photon.transport_url={s3('payloads')}/runs")
    with nodes(tmp_path, four, PLACES) as sockets:
        result = train(make("run_uuid=r", f"photon.transport={via}", *extra), sockets)
    assert final_digest(result) == local[state]
    assert not list((tmp_path / "server" / "r" / "depot").glob("update*.part"))


def test_worker_processes_of_a_node_give_the_same_bits(make, four, local, tmp_path):
    with nodes(tmp_path, four, PLACES, "photon.workers=2") as sockets:
        result = train(make("run_uuid=r"), sockets)
    assert final_digest(result) == local["averaged"]


def test_payloads_in_pieces_give_the_same_bits(make, four, local, tmp_path, monkeypatch):
    """A payload larger than a message goes up and down in several."""
    monkeypatch.setattr(inline, "MAX_INLINE_BYTES", 10_000)
    with nodes(tmp_path, four, PLACES) as sockets:
        result = train(make("run_uuid=r"), sockets)
    assert final_digest(result) == local["averaged"]


def test_objects_in_parts_give_the_same_bits(make, four, local, tmp_path, s3, monkeypatch):
    from photon.wire import object_store

    monkeypatch.setattr(object_store, "PART_BYTES", 10_000)
    with nodes(tmp_path, four, PLACES) as sockets:
        url = f"photon.transport_url={s3('parts')}"
        result = train(make("run_uuid=r", "photon.transport=s3", url), sockets)
    assert final_digest(result) == local["averaged"]


def test_clients_share_a_node_without_sharing_a_state(make, four, local, tmp_path):
    """All on one node: states are swapped in and out, and none leaks into another."""
    with nodes(tmp_path, four, {"only": [0, 1, 2, 3]}) as sockets:
        config = make("run_uuid=r", "photon.n_nodes=1", "fl.aggregate_momenta=false")
        assert final_digest(train(config, sockets)) == local["kept"]


def test_partial_means_of_nodes_are_the_flat_mean(make, four, tmp_path):
    """Two sub-federations of unequal size; one round, so that rounding has nothing to grow on."""
    plain = ["fl.n_rounds=1", "fl.compression=fp32", "fl.strategy_name=fedavg"]
    with nodes(tmp_path, four, {"a": [0, 1, 2], "b": [3]}) as sockets:
        flat = train(make("run_uuid=flat", *plain), sockets)
        folded = train(make("run_uuid=folded", "fl.fold_updates=true", *plain), sockets)
    ours, theirs = (
        checkpoint.load_parameters(checkpoint.newest_checkpoint(Path(r.folder) / "checkpoints"))
        for r in (folded, flat)
    )
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-6)
    (record,) = read_lines(tmp_path / "server" / "folded" / "metrics.jsonl")
    (other,) = read_lines(tmp_path / "server" / "flat" / "metrics.jsonl")
    assert record["accepted"] == [0, 1, 2, 3]
    assert record["tokens"] == other["tokens"]
    assert record["train_loss"] == pytest.approx(other["train_loss"], rel=1e-6)
    up, flat_up = (line["bytes_by_kind"]["up"] for line in (record, other))
    for kind in ("gradient", "moments"):
        assert up[kind] == flat_up[kind] // 2 > 0
    assert 0 < up["rest"] < flat_up["rest"]


def test_on_one_machine_nothing_is_folded(smoke):
    """The key has no effect there, and the codec is that of each client."""
    plain, folding = (
        photon.train(
            smoke(
                f"run_uuid={name}",
                f"fl.fold_updates={name}",
                "fl.n_rounds=1",
                "fl.compression=bf16",
            )
        )
        for name in ("false", "true")
    )
    assert final_digest(folding) == final_digest(plain)


def test_many_options_at_once_give_the_bits_of_the_local_engine(make, four, tmp_path):
    keys = [
        "fl.personalized_layers=[blocks.0.attention.*]", "fl.frozen_layers=[embedding.weight]",
        "fl.random_layers=[norm.weight]", "fl.random_init_freq=3", "fl.scaling_fn=sqrt",
        "fl.outer_schedule.name=cosine", "fl.reset_timestamp=true", "fl.split_eval=true",
        "fl.use_noise_scale_metric=true", "fl.sampling=by_size", "fl.n_clients_per_round=3",
        "fl.availability=0.9", "fl.n_rounds=4", "fl.n_local_epochs=1", "fl.quorum=1",
        "llm_config.global_train_batch_size=64",
    ]  # fmt: skip
    here = photon.train(make("run_uuid=here", *keys))
    with nodes(tmp_path, four, PLACES) as sockets:
        there = train(make("run_uuid=there", *keys), sockets)
    assert final_digest(here) == final_digest(there)
    ours, theirs = (read_lines(Path(r.folder) / "metrics.jsonl") for r in (here, there))
    for key in ("accepted", "train_loss", "noise_scale", "tokens"):
        assert [line.get(key) for line in ours] == [line.get(key) for line in theirs], key
    for line, other in zip(ours, theirs, strict=True):
        assert_sent_by_nodes(other, line)


def assert_sent_by_nodes(there: dict[str, Any], here: dict[str, Any]) -> None:
    """The tensors that sites of one client each would send; a node gets one base for all of its."""
    found, expected = there["bytes_by_kind"], here["bytes_by_kind"]
    share = len({client % 2 for client in there["accepted"]}), len(there["accepted"])
    for kind in ("gradient", "moments"):
        assert found["up"][kind] == expected["up"][kind]
    for kind in ("parameters", "moments"):
        assert share[1] * found["down"][kind] == share[0] * expected["down"][kind]
    assert found["up"]["rest"] > expected["up"]["rest"], "messages, around the same payloads"
    for at, way in enumerate(("up", "down")):
        sent = sum(both[at] for both in there["client_bytes"].values())
        assert sent == there[f"bytes_{way}"] == sum(found[way].values())


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
            address=f"n{n}", of=round_of(n), clients=[n],
            errand=SimpleNamespace(traffic=Traffic(up=Counter(rest=n))),
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


def scaled(update, factor: float):
    gradient = {name: value * factor for name, value in update.gradient.items()}
    return dataclasses.replace(update, gradient=gradient)


def with_moment(update, name: str, value: float):
    moment = {n: torch.full_like(tensor, value) for n, tensor in update.moments[name].items()}
    return dataclasses.replace(update, moments={**update.moments, name: moment})


TAMPERED = {
    "nan": (lambda update: scaled(update, float("nan")), "pseudo-gradient is not finite"),
    "times a thousand": (lambda update: scaled(update, 1000.0), "more than its steps can make"),
    "with more tokens": (
        lambda update: dataclasses.replace(update, num_tokens=10**15),
        "tokens, its steps have",
    ),
    "with negative squares": (
        lambda update: with_moment(update, "exp_avg_sq", -1e-4),
        "exp_avg_sq is negative",
    ),
    "with a huge moment": (
        lambda update: with_moment(update, "exp_avg_sq", 1e20),
        "exp_avg_sq: norm",
    ),
    "of another base": (
        lambda update: dataclasses.replace(update, base_digest="0" * 32),
        "trained from other parameters",
    ),
    "of another round": (lambda update: dataclasses.replace(update, round=7), "stale"),
    "of another run": (lambda update: dataclasses.replace(update, run="other"), "stale"),
    "without tokens": (lambda update: dataclasses.replace(update, num_tokens=0), "0 tokens"),
}


def offer_instead(run, grant, update, said=()):
    """Send this update in place of the one that the node has kept, with other facts if given."""
    tensors, facts = parts_of(update)
    path = run._mailbox.folder / f"worse_{update.client}"
    return run._mailbox.offer(path, write_container(path, tensors, facts | dict(said)), grant)


@pytest.mark.parametrize("how", TAMPERED)
def test_a_bad_update_leaves_no_trace_but_its_reason(make, four, tmp_path, monkeypatch, how):
    """The parameters are those of a run in which client 3 has no data at all."""
    tamper, reason = TAMPERED[how]
    offer = hosted_run.HostedRun._offer

    def offer_worse(self, update, grant):
        if update.client == 3:
            return offer_instead(self, grant, tamper(update))
        return offer(self, update, grant)

    shape = ["fl.quorum=3", "fl.n_rounds=1", "photon.n_nodes=1", "fl.round_timeout=20",
             "fl.compression=bf16"]  # fmt: skip
    with nodes(tmp_path, four, {"a": [0, 1, 2]}) as sockets:
        expected = final_digest(train(make("run_uuid=without", *shape), sockets))
    monkeypatch.setattr(hosted_run.HostedRun, "_offer", offer_worse)
    with nodes(tmp_path, four, {"b": [0, 1, 2, 3]}) as sockets:
        result = train(make("run_uuid=with", *shape), sockets)
    (record,) = read_lines(tmp_path / "server" / "with" / "metrics.jsonl")
    assert reason in record["refused"]["3"]
    assert record["accepted"] == [0, 1, 2]
    assert final_digest(result) == expected


@pytest.mark.parametrize("fault", ["cut short", "another client's", "not there"])
def test_a_payload_that_is_not_what_its_ticket_says_is_tried_again(
    make, four, local, tmp_path, monkeypatch, fault
):
    """Once, then all is well: the kept update is sent again, and nothing is trained twice."""
    offer, spoilt = hosted_run.HostedRun._offer, []

    def offer_worse(self, update, grant):
        if spoilt or update.client != 1:
            return offer(self, update, grant)
        spoilt.append(fault)
        if fault == "another client's":
            return offer(self, dataclasses.replace(update, client=0), grant)
        ticket = offer(self, update, grant)
        if fault == "cut short":
            return {**ticket, "data": ticket["data"][:-64]}
        return {key: value for key, value in ticket.items() if key != "data"}

    monkeypatch.setattr(hosted_run.HostedRun, "_offer", offer_worse)
    lines: list[str] = []
    with nodes(tmp_path, four, PLACES) as sockets:
        result = train(make("run_uuid=r"), sockets, lines)
    assert final_digest(result) == local["averaged"]
    assert any("client 1 on node b" in line for line in lines)


def test_a_stopped_federation_goes_on_with_its_own_engine(make, four, local, tmp_path):
    """Ctrl-C names the command with its options; on this machine's data it would be another run."""
    run, lines = tmp_path / "server" / "r", []

    def hear(line: str) -> None:
        if "hosts clients" in line and not lines:
            lines.append(line)
            os.kill(os.getpid(), signal.SIGINT)

    with nodes(tmp_path, four, PLACES) as sockets:
        own = EngineFactory("flower", over_sockets(sockets).make, ("--host-clients", "0-3"))
        with pytest.raises(Interrupted) as stopped:
            experiment.train(make("run_uuid=r"), engine=own, say=hear)
        command = f"photon server --resume {run} --host-clients 0-3"
        assert str(stopped.value).endswith(f"go on with: {command}")
        before = (run / "config.json").read_bytes()
        for attempt in (
            lambda: experiment.resume(run),
            lambda: experiment.train(make("run_uuid=r", "photon.resume_round=-1")),
            lambda: experiment.train(make("run_uuid=r")),
        ):
            with pytest.raises(RunFolderError, match=command):
                attempt()
        assert (run / "config.json").read_bytes() == before
        moved = EngineFactory("flower", own.make, ("--listen", "127.0.0.1:9000"))
        assert final_digest(experiment.resume(run, engine=moved)) == local["averaged"]
    assert how_to_go_on(run, read_facts(run)).endswith(f"{run} --listen 127.0.0.1:9000")


def test_a_full_disk_on_the_server_loses_nothing(make, four, local, tmp_path, monkeypatch):
    """An update that finds no room is fetched again when there is some."""
    write, full = ChunkWriter.write, [True]

    def refuse(self, offset, data):
        if full and "update-2" in self.path.name:
            full.pop()
            raise StorageError(f"{self.path}: cannot write (No space left on device)")
        write(self, offset, data)

    monkeypatch.setattr(ChunkWriter, "write", refuse)
    with nodes(tmp_path, four, PLACES) as sockets:
        with pytest.raises(StorageError, match="No space left"):
            train(make("run_uuid=r"), sockets)
        result = experiment.resume(tmp_path / "server" / "r", engine=over_sockets(sockets))
    assert final_digest(result) == local["averaged"]


SAID = {
    "a text": {"num_tokens": "100"},
    "no float": {"num_tokens": 10**400},
    "no metrics": {"metrics": {}},
    "a list": {"round": [1]},
    "no clients": {"covers": ["x"]},
    "no speed": {"metrics": {"train_loss": 1.0, "tokens_per_second": [1]}},
    "infinite soon": {"metrics": {"train_loss": 1e308}},
}


@pytest.mark.parametrize("what", SAID)
def test_a_client_that_says_nonsense_ends_nothing_but_its_part(
    make, four, tmp_path, monkeypatch, what
):
    def offer(self, update, grant):
        return offer_instead(self, grant, update, SAID[what] if update.client == 3 else {})

    monkeypatch.setattr(hosted_run.HostedRun, "_offer", offer)
    keys = ["fl.quorum=3", "fl.n_rounds=1", "photon.n_nodes=1", "fl.round_timeout=20"]
    with nodes(tmp_path, four, {"b": [0, 1, 2, 3]}, "fl.strategy_name=fedavg") as sockets:
        train(make("run_uuid=r", *keys), sockets)
    (record,) = read_lines(tmp_path / "server" / "r" / "metrics.jsonl")
    assert record["accepted"] == [0, 1, 2]
    reason = {**record["refused"], **record["missing"]}["3"]
    assert len(reason) < 500
    assert record["train_loss"] < 10


def test_nodes_that_do_not_come_end_the_wait(make, tmp_path):
    (tmp_path / "nobody").mkdir()
    with pytest.raises(RoundFailed, match=r"0 nodes with 0 clients .*; go on with: "):
        train(make("photon.join_timeout=1"), tmp_path / "nobody")


def test_who_is_awaited_is_said_at_once(make):
    """Of two enrolled nodes one is here; then, in a round, none of those that are asked for."""
    bound = {"a": [0, 2], "b": [1, 3]}
    register = Register({n: Enrolled(public_key="", clients=its) for n, its in bound.items()})
    quiet: Any = SimpleNamespace(addresses=lambda: ["1"], answers=lambda _: iter(()))
    roster, lines = Roster(quiet, register, print), []
    engine = RemoteEngine(make(), {}, quiet, roster, cast(Any, None), lines.append, lambda: "; ...")
    roster.members["1"] = Member("a", "1", frozenset([0, 2]))
    asked = iter([False, False, True])
    assert engine.alive(lambda: next(asked)) == []
    plan: Any = SimpleNamespace(round=3)
    engine._tell_idle(_OpenRound(plan, deque([1, 3])))
    assert lines == [
        "waiting     for nodes: 1 here of 2 (photon.n_nodes), with 2 clients of 4 (fl.quorum); "
        "not here: b (clients 1,3); ...",
        "waiting     in round 3 for a node with clients 1,3; ...",
    ]


class Stopped(NodeService):
    """A node that somebody stops while it is asked to train."""

    def _train(self, request):
        self.is_asked = True
        self._stopped.wait(30)
        return super()._train(request)


def test_a_node_may_be_stopped_at_any_time(make, four, local, tmp_path):
    """More often in a round than a client may fail, and nobody else has its clients' data."""
    own = load_config([f"dataset.train.root_local={four}", f"photon.saving_path={tmp_path / 'b'}",
                       "photon.workers=0", "photon.threads=1"])  # fmt: skip
    lines: list[str] = []

    def live():
        for _ in range(MAX_ATTEMPTS + 1):
            node = Stopped("b", [1, 3], own, sockets / "b.sock", None, print)
            node.serve(lambda node=node: hasattr(node, "is_asked") or over.is_set())
        NodeService("b", [1, 3], own, sockets / "b.sock", None, print).serve(over.is_set)

    over = threading.Event()
    with nodes(tmp_path, four, {"a": [0, 2]}) as sockets:
        thread = threading.Thread(target=live)
        thread.start()
        try:
            result = train(make("run_uuid=r", "fl.failed_rounds=stop"), sockets, lines)
        finally:
            over.set()
            thread.join(60)
    assert final_digest(result) == local["averaged"]
    assert lines.count("node b is being stopped") == MAX_ATTEMPTS + 1


def test_data_of_another_tokenizer_is_refused(make, tmp_path):
    config = load_config(["recipe=smoke", "dataset.embedded.vocab_size=290"])
    other = tmp_path / "other"
    prepare_embedded(other, config.data.embedded, 4, config.inner.row_length)
    with (
        nodes(tmp_path, other, PLACES) as sockets,
        pytest.raises(RoundFailed, match=r"has tokenizer .*, the server") as caught,
    ):
        train(make("run_uuid=r"), sockets)
    assert "node a: node a" not in str(caught.value)


def test_a_run_of_that_name_with_another_configuration_is_refused(make, four, tmp_path):
    with nodes(tmp_path, four, PLACES) as sockets:
        train(make("run_uuid=r", "fl.n_rounds=1"), sockets)
        changed = make("run_uuid=r", "fl.n_rounds=1", "seed=7",
                       f"photon.saving_path={tmp_path / 'second'}")  # fmt: skip
        with pytest.raises(RoundFailed, match="is of a run with another configuration"):
            train(changed, sockets)


def test_an_unsigned_node_is_turned_away(make, four, tmp_path, monkeypatch):
    """A server with keys hears nobody who does not sign with an enrolled one."""
    from photon.wire.keys import enrol, make_authority

    make_authority(tmp_path / "keys", ["localhost"])
    enrol(tmp_path / "keys", "a", [0, 2])
    register = read_register(tmp_path / "keys" / "nodes.json")
    monkeypatch.setattr(loopback, "Register", lambda nodes: register)
    lines: list[str] = []
    config = make("run_uuid=r", "photon.join_timeout=2")
    with nodes(tmp_path, four, PLACES) as sockets, pytest.raises(RoundFailed, match="0 nodes"):
        train(config, sockets, lines)
    assert any("not signed with the key enrolled for that name" in line for line in lines)


def test_a_key_is_bound_to_its_clients(make, four, local, tmp_path, monkeypatch):
    """Node a signs rightly and offers all clients; it gets those that its key is bound to."""
    from photon.wire.enrolment import signer
    from photon.wire.keys import enrol, make_authority

    make_authority(tmp_path / "keys", ["localhost"])
    sign = {name: signer(enrol(tmp_path / "keys", name, own)) for name, own in PLACES.items()}
    register = read_register(tmp_path / "keys" / "nodes.json")
    monkeypatch.setattr(loopback, "Register", lambda nodes: register)
    everyone = [0, 1, 2, 3]
    lines: list[str] = []
    with (
        nodes(tmp_path, four, {"a": everyone}, sign=sign["a"]) as sockets,
        nodes(tmp_path, four, {"b": everyone}, sign=sign["b"]) as others,
    ):
        (sockets / "b.sock").symlink_to(others / "b.sock")
        result = train(make("run_uuid=r"), sockets, lines)
    assert final_digest(result) == local["averaged"]
    beyond = "it offers {} too, which its key is not bound to"
    assert {
        f"node a hosts clients 0, 2; {beyond.format('1,3')}",
        f"node b hosts clients 1, 3; {beyond.format('0,2')}",
    } <= set(lines)


def test_clients_are_written_as_ranges():
    assert parse_clients("0-3,7, 5") == [0, 1, 2, 3, 5, 7]
    assert format_clients([7, 0, 1, 2, 3, 5]) == "0-3,5,7"
    for text in ("", "a", "3-1", "1-", "0-99999999", "-1"):
        with pytest.raises(ConfigError, match="clients"):
            parse_clients(text)


@pytest.mark.parametrize(
    ("key", "why"),
    [("fl.compression.upload=topk:5000/4096", "no more than all"),
     ("fl.compression.moments=topk", "take one of blocks")],
)  # fmt: skip
def test_a_codec_that_cannot_do_is_refused_before_there_is_a_folder(make, tmp_path, key, why):
    with pytest.raises(ConfigError, match=why):
        train(make("run_uuid=r", key), tmp_path)
    assert not (tmp_path / "server" / "r").exists(), "the corrected command may have the name"


def test_a_register_that_is_none_is_refused(tmp_path):
    path = tmp_path / "nodes.json"
    with pytest.raises(ConfigError, match="photon keys init"):
        read_register(path)
    for text in (
        "",
        "[]",
        '{"a": {"public_key": "x"}}',
        '{"a": {"public_key": "x", "clients": []}}',
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match="not a register"):
            read_register(path)
    path.write_text("{}")
    with pytest.raises(ConfigError, match="no node is enrolled"):
        read_register(path)


@pytest.mark.parametrize("key", ["x", "", "ssh-rsa AAAA", "ssh-ed25519"])
def test_a_register_with_a_key_that_is_none_is_refused(tmp_path, key):
    """Or else the server's part of Flower would end with it, half a minute later."""
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from photon.wire.keys import enrol, make_authority

    private = ed25519.Ed25519PrivateKey.generate()
    other = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    make_authority(tmp_path, ["localhost"])
    enrol(tmp_path, "a", [0])
    path = tmp_path / "nodes.json"
    nodes = json.loads(path.read_text())
    nodes["b"] = {"public_key": other if key == "ssh-ed25519" else key, "clients": [1]}
    path.write_text(json.dumps(nodes))
    with pytest.raises(ConfigError, match=r"json: the public_key of node b is no ECDSA key"):
        read_register(path)


def test_a_register_without_keys_takes_everybody():
    assert Register(None).allowed("x", [1, 2]) == {1, 2}
    bound = Register({"x": Enrolled(public_key="k", clients=[2, 3])})
    assert bound.allowed("x", [1, 2]) == {2}
    with pytest.raises(PayloadError, match="is not enrolled"):
        bound.allowed("y", [2])
    with pytest.raises(PayloadError, match="bound to 2-3"):
        bound.allowed("x", [0, 1])
