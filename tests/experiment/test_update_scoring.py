"""Bad updates in real runs: scored, refused, and whoever sends them left out for a while."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import photon
from photon.container.container import digest
from photon.core.messages import Update
from photon.errors import PhotonWarning
from photon.experiment.refusals import scoring_warnings
from photon.node import engine
from photon.report.console import progress_line
from photon.run import checkpoint
from photon.run.kinds import FEDERATED
from photon.run.trackers import read_lines

KEYS = ("fl.scoring.enabled=true", "fl.n_total_clients=4", "fl.accept_failures_cnt=1",
        "fl.n_rounds=4", "fl.scoring.failures=1", "fl.scoring.quarantine=2")  # fmt: skip


@pytest.fixture
def smoke(smoke, four):
    """Of four clients."""
    return lambda *keys: smoke(f"dataset.train.root_local={four}", *keys)


@pytest.fixture
def falsify(monkeypatch):
    """Have a function alter what clients send."""

    def with_alteration(alter: Callable[[Update], Update]) -> None:
        load = engine.load_update
        monkeypatch.setattr(engine, "load_update", lambda path: alter(load(path)))

    return with_alteration


def turned(update: Update, by: float = -1.0) -> Update:
    return replace(update, gradient={n: by * v for n, v in update.gradient.items()})


def rounds(result) -> list[dict]:
    return [r for r in read_lines(Path(result.folder) / "metrics.jsonl") if r["round"]]


def test_honest_clients_are_scored_and_none_is_refused(smoke):
    run = photon.train(smoke(*KEYS, "fl.compression=fp32", "run_uuid=scored"))
    for record in rounds(run):
        assert (record["refused"], record["quarantined"]) == ({}, {})
        assert set(record["client_gains"]) == set(record["client_agreement"]) == set("0123")
    plain = photon.train(smoke(*KEYS[1:4], "fl.compression=fp32", "run_uuid=plain"))
    assert final(run) == final(plain), "what is only measured changes nothing"
    assert "client_gains" not in rounds(plain)[0]


def final(result) -> str:
    return digest(checkpoint.load_parameters(checkpoint.list_checkpoints(
        Path(result.folder) / "checkpoints")[-1]))  # fmt: skip


def test_a_gain_is_the_loss_without_an_update_less_that_with_it(smoke):
    """Oracle: of a client alone, whose update is the whole step of FedAvg, the validation loss."""
    keys = ("fl.n_total_clients=1", "fl.n_rounds=2", "fl.strategy_name=fedavg", "fl.eval_period=1",
            "llm_config.eval_subset_num_batches=-1", "llm_config.eval_first=true",
            "fl.scoring.enabled=true", "fl.scoring.rows=999999", "fl.compression=fp32")  # fmt: skip
    lines = read_lines(Path(photon.train(smoke(*keys)).folder) / "metrics.jsonl")
    losses = [line["val_loss"] for line in lines]
    for record, before, after in zip(lines[1:], losses, losses[1:], strict=False):
        assert record["client_gains"]["0"] == pytest.approx(before - after, abs=1e-4)


def test_who_turns_its_update_around_is_refused_left_out_and_comes_back(smoke, falsify):
    falsify(lambda update: turned(update) if update.client == 3 else update)
    run = photon.train(smoke(*KEYS))
    lines = rounds(run)
    assert [list(line["refused"]) for line in lines] == [["3"], [], [], ["3"]]
    assert [line["quarantined"] for line in lines] == [{"3": 3}, {"3": 3}, {}, {"3": 6}]
    assert [line["accepted"] for line in lines] == [[0, 1, 2]] * 4
    assert "client 3 left out until round 3" in progress_line(lines[0], FEDERATED)


def test_a_refused_update_leaves_the_parameters_of_the_others(smoke, falsify):
    """Oracle: a run in which that client fails."""
    falsify(lambda update: turned(update, -0.5) if update.client == 3 else update)
    ours = photon.train(smoke(*KEYS, "fl.n_rounds=1", "run_uuid=ours"))

    def none(update: Update) -> Update:
        return replace(update, num_tokens=0) if update.client == 3 else update

    falsify(none)
    theirs = photon.train(smoke(*KEYS, "fl.n_rounds=1", "run_uuid=theirs"))
    assert "trained on 0 tokens" in rounds(theirs)[0]["refused"]["3"]
    assert final(ours) == final(theirs)


def test_a_copy_is_refused(smoke, falsify):
    sent: dict[int, Update] = {}

    def copying(update: Update) -> Update:
        sent[update.client] = update
        if update.client != 2:
            return update
        return replace(update, gradient=sent[1].gradient)

    falsify(copying)
    (line,) = rounds(photon.train(smoke(*KEYS, "fl.n_rounds=1", "fl.scoring.rows=0")))
    assert line["refused"] == {"2": "is a copy of client 1's update"}
    assert line["client_gains"] == dict.fromkeys("013"), "no public text, no gains"


def test_few_deviations_refuse_the_honest_too(smoke):
    keys = ("fl.n_rounds=1", "fl.accept_failures_cnt=3", "fl.scoring.deviations=0.001")
    with pytest.warns(PhotonWarning, match="the validation set has"):
        run = photon.train(smoke(*KEYS, *keys, "fl.scoring.rows=9999"))
    (line,) = rounds(run)
    assert line["refused"]


def test_what_may_not_be_expected_of_scores_is_said(smoke):
    rows = range(10)

    def said(*keys: str) -> str:
        fl = smoke(*KEYS, "fl.accept_failures_cnt=0", *keys).federation
        return " ".join(scoring_warnings(fl, lambda: rows))  # pyright: ignore

    assert "needs the updates of all 4 clients" in said()
    assert "the validation set has 10 rows" in said("fl.scoring.rows=11", "fl.quorum=3")
    assert said("fl.scoring.rows=10", "fl.quorum=3") == ""
    assert said("fl.scoring.rows=10", "fl.failed_rounds=retry") == ""
    assert said("fl.scoring.enabled=false") == ""
