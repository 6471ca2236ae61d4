"""Updates that are tampered with, cut short or nonsense: refused with a reason, without a trace."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from four_clients import PLACES

from loopback import final_digest, nodes, train
from photon.container.container import write_container
from photon.core.parts import parts_of
from photon.node import hosted_run
from photon.run.trackers import read_lines


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
    ref = write_container(path, tensors, facts | dict(said))
    return run._mailbox.offer(path, ref, grant, lambda: False)


@pytest.mark.parametrize("how", TAMPERED)
def test_a_bad_update_leaves_no_trace_but_its_reason(make, four, tmp_path, monkeypatch, how):
    """The parameters are those of a run in which client 3 has no data at all."""
    tamper, reason = TAMPERED[how]
    offer = hosted_run.HostedRun._offer

    def offer_worse(self, update, grant, late):
        if update.client == 3:
            return offer_instead(self, grant, tamper(update))
        return offer(self, update, grant, late)

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

    def offer_worse(self, update, grant, late):
        if spoilt or update.client != 1:
            return offer(self, update, grant, late)
        spoilt.append(fault)
        if fault == "another client's":
            return offer(self, dataclasses.replace(update, client=0), grant, late)
        ticket = offer(self, update, grant, late)
        if fault == "cut short":
            return {**ticket, "data": ticket["data"][:-64]}
        return {key: value for key, value in ticket.items() if key != "data"}

    monkeypatch.setattr(hosted_run.HostedRun, "_offer", offer_worse)
    lines: list[str] = []
    with nodes(tmp_path, four, PLACES) as sockets:
        result = train(make("run_uuid=r"), sockets, lines)
    assert final_digest(result) == local["averaged"]
    assert any("client 1 on node b" in line for line in lines)


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
    def offer(self, update, grant, late):
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
