"""Asynchronous runs on one machine: where nobody is late, the same bits every time."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import photon
from photon.config import load_config
from photon.container.container import digest
from photon.core.messages import ServerState
from photon.errors import (
    ConfigError,
    Interrupted,
    MismatchedCheckpoint,
    PhotonWarning,
    RoundFailed,
)
from photon.experiment import experiment
from photon.experiment.refusals import absence_warning, merging_warning
from photon.report.console import progress_line
from photon.run import checkpoint
from photon.run.listing import run_status, seconds_to_go
from photon.run.participation import Participation
from photon.run.trackers import read_lines
from photon.server import commits

FOUR = ("fl.n_total_clients=4", "fl.n_rounds=3", "fl.eval_period=1")
ASYNC = "fl.mode=async"
HALF = "fl.buffer=2"
ROUND = 4 * 3 * 2 * 32
"""Tokens of four clients, three steps, two rows."""


@pytest.fixture
def train(four, tmp_path):
    def call(*keys: str):
        return photon.train(["recipe=smoke", f"dataset.train.root_local={four}",
                             f"photon.saving_path={tmp_path}", *FOUR, *keys])  # fmt: skip

    return call


def records(result) -> list[dict]:
    return read_lines(Path(result.folder) / "metrics.jsonl")


def final(result) -> str:
    newest = checkpoint.newest_checkpoint(Path(result.folder) / "checkpoints")
    return digest(checkpoint.load_parameters(newest))


@pytest.mark.parametrize("keys", [
    (),
    ("photon.workers=2",),
    ("fl.strategy_name=fedavgm", "fl.scaling_fn=sqrt", "fl.compression.upload=int8"),
    ("fl.n_clients_per_round=2", "fl.outer_schedule.name=cosine", "fl.aggregate_momenta=false"),
])  # fmt: skip
def test_merges_of_a_whole_cohort_are_synchronous_rounds_bit_for_bit(train, keys):
    whole = 2 if "fl.n_clients_per_round=2" in keys else 4
    sync = train("run_uuid=sync", *keys)
    merged = train("run_uuid=async", ASYNC, f"fl.buffer={whole}", *keys)
    assert final(merged) == final(sync)
    same = ("round", "step", "tokens", "accepted", "train_loss", "val_loss", "gradient_norm")
    for one, other in zip(records(merged), records(sync), strict=True):
        assert [one.get(key) for key in same] == [other.get(key) for key in same]
        assert one["share"] == 1.0


def test_those_that_have_waited_longest_are_merged_and_the_run_is_as_long(train):
    result = train("run_uuid=half", ASYNC, HALF)
    lines = records(result)
    assert [line["accepted"] for line in lines] == [[0, 1], [2, 3]] * 3
    assert [line["tokens"] for line in lines] == [ROUND // 2 * n for n in range(1, 7)]
    assert [line["step"] for line in lines] == [1, 3, 4, 6, 7, 9], "three steps a cohort's tokens"
    assert [line["share"] for line in lines] == [0.5] * 6
    assert ["val_loss" in line for line in lines] == [False, True] * 3
    assert all(line["steps"] == 9 and "rounds" not in line for line in lines)
    assert result.federated is not None
    assert result.federated.tokens == 3 * ROUND
    assert sum(line["bytes_ddp"] for line in lines) == result.bytes_ddp, "of as many steps"


def test_the_last_merge_takes_what_the_run_has_left(train):
    lines = records(train("run_uuid=odd", ASYNC, "fl.buffer=3", "fl.n_rounds=1"))
    assert [line["accepted"] for line in lines] == [[0, 1, 2], [3]]
    assert lines[-1]["tokens"] == ROUND


def test_what_a_run_says_of_its_place_is_in_steps(train):
    result = train("run_uuid=half", ASYNC, HALF)
    status = run_status(Path(result.folder))
    assert (status.place, status.state) == ("step 9 of 9", "ended")
    lines = records(result)
    assert progress_line(lines[2], "run").startswith("merge   3  step     4/9  loss ")
    left = seconds_to_go(lines[:3])
    assert left is not None
    spent = sum(sum(line["phase_seconds"].values()) for line in lines[:3])
    assert left == pytest.approx(5 * spent / 4)
    left = seconds_to_go(lines[2:5])  # of which the first only tells where the others begin
    assert left == pytest.approx(2 * sum(sum(x["phase_seconds"].values()) for x in lines[3:5]) / 3)
    assert seconds_to_go(lines[2:3]) is None


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_run_that_stops_between_merges_ends_as_if_it_had_not(train, monkeypatch, after):
    """After a merge whose momentum is due, and after one in between."""
    whole = train("run_uuid=whole", ASYNC, HALF)
    written = commits.save_server_state

    def stop(folder, state, *rest):
        written(folder, state, *rest)
        if state.round == after:
            raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(commits, "save_server_state", stop)
    with pytest.raises(Interrupted):
        train("run_uuid=cut", ASYNC, HALF)
    monkeypatch.undo()
    cut = photon.resume(Path(whole.folder).parent / "cut")
    assert final(cut) == final(whole)
    kept = [{k: line[k] for k in ("round", "step", "accepted", "train_loss")} for line in
            records(cut)]  # fmt: skip
    assert kept == [{k: line[k] for k in ("round", "step", "accepted", "train_loss")} for line in
                    records(whole)]  # fmt: skip


def test_a_run_may_be_shortened_to_what_is_done_and_lengthened(train):
    result = train("run_uuid=half", ASYNC, HALF)
    with pytest.raises(MismatchedCheckpoint, match="may be lowered to the 3 that are done"):
        photon.resume(result.folder, ["fl.n_rounds=2"])
    lines: list[str] = []
    experiment.resume(result.folder, say=lines.append)
    assert "step 9 with fl.n_rounds=3: nothing is left to train" in " ".join(lines)
    longer = photon.resume(result.folder, ["fl.n_rounds=4"])
    assert records(longer)[-1]["tokens"] == 4 * ROUND


def test_fast_clients_take_more_steps_and_the_tokens_say_so(make):
    config = make("fl.n_total_clients=4", ASYNC, "fl.steps_by_speed=true")
    chosen = Participation(config.federation, 0, 8, 2)
    speeds = {0: 100.0, 1: 100.0, 2: 25.0, 3: 300.0}
    state = ServerState(round=3, step=9, params={}, outer={}, speeds=speeds)
    assert chosen.choose(state, range(4), 4)[0] == {0: 8, 1: 8, 2: 2, 3: 16}
    assert chosen.choose(state, [2], 4)[0] == {2: 2}, "its speed beside all, not beside itself"


@pytest.mark.parametrize(("keys", "why"), [
    (("fl.quorum=1",), "mode=async takes no quorum=1: a merge needs one update"),
    (("fl.accept_failures_cnt=1",), "mode=async takes no accept_failures_cnt=1"),
    (("fl.oversample=1", "fl.n_clients_per_round=2"), "mode=async takes no oversample=1"),
    (("fl.failed_rounds=skip",), "mode=async takes no failed_rounds=skip"),
    (("fl.ignore_failed_rounds=true",), "mode=async takes no ignore_failed_rounds=true"),
    (("fl.fold_updates=true",), "mode=async takes no fold_updates=true"),
    (("fl.n_local_epochs=1",), "mode=async takes no n_local_epochs=1"),
    (("llm_config.local_steps=1ep",), "fl.mode=async counts in steps"),
    (("fl.random_layers=[norm.weight]", "fl.random_init_freq=3"), "mode=async takes no random_la"),
    (("fl.fragments=2",), "mode=async takes no fragments=2: a late update is of another"),
    (("fl.split_eval=true",), "mode=async takes no split_eval=true"),
    (("fl.second_moment_period=2",), "mode=async takes no second_moment_period=2"),
    (("fl.strategy_name=fedadam",), "takes no strategy_name=FEDADAM: its moments would decay"),
    (("fl.strategy_name=mine:outer",), "mode=async takes no strategy_name=mine:outer"),
    (("fl.buffer=5",), "buffer=5 is more than the cohort of 4"),
])  # fmt: skip
def test_what_says_nothing_of_merges_is_refused_before_anything_is_trained(make, keys, why):
    with pytest.raises(ConfigError, match=why):
        make("fl.n_total_clients=4", ASYNC, *keys)


def test_that_a_run_warns_of_merges_of_few(train):
    with pytest.warns(PhotonWarning, match="fl.aggregation=median .* of one update or two"):
        train(ASYNC, "fl.aggregation=median", "fl.n_rounds=1")


@pytest.mark.parametrize(
    ("rule", "mode", "is_warned"),
    [("krum", "async", True), ("median", "async", True), ("median", "sync", False),
     ("mean", "async", False), ("rda", "async", False)],
)  # fmt: skip
def test_that_a_merge_of_few_is_warned_of(rule, mode, is_warned):
    keys = [f"fl.aggregation={rule}", f"fl.mode={mode}", "fl.aggregate_momenta=false",
            "fl.n_total_clients=4"]  # fmt: skip
    found = merging_warning(load_config(["recipe=smoke", *keys]).federation)
    assert (found is not None) == is_warned
    if found:
        assert found.startswith(f"fl.aggregation={rule}")
        assert "may be of one update or two" in found


@pytest.mark.parametrize(
    ("rule", "clients", "quorum", "is_warned"),
    [("median", 2, None, True), ("median", 3, None, False), ("median", 3, 2, True),
     ("trimmed_mean:26", 3, None, True), ("trimmed_mean:26", 4, None, False),
     ("centred_clip", 2, None, True), ("krum", 2, None, True), ("krum", 5, None, False),
     ("mean", 2, None, False)],
)  # fmt: skip
def test_that_a_round_of_too_few_to_tell_a_false_one_is_warned_of(rule, clients, quorum, is_warned):
    keys = [f"fl.aggregation={rule}", f"fl.n_total_clients={clients}",
            *([] if quorum is None else [f"fl.quorum={quorum}"])]  # fmt: skip
    found = merging_warning(load_config(["recipe=smoke", *keys]).federation)
    assert (found is not None) == is_warned
    if found:
        fewest = quorum or clients
        assert found.startswith(f"fl.aggregation={rule}: a round may be of {fewest} updates")


@pytest.mark.parametrize(
    ("keys", "is_warned"),
    [([], True), (["fl.failed_rounds=retry"], True), (["fl.failed_rounds=skip"], False),
     (["fl.quorum=1"], False), (["fl.mode=async"], False), (["fl.n_clients_per_round=1"], False),
     (["fl.availability=1"], False), (["fl.n_total_clients=1"], False)],
)  # fmt: skip
def test_that_a_round_without_those_who_are_kept_away_is_warned_of(keys, is_warned):
    """A round that is tried again has the same clients away."""
    given = load_config(["recipe=smoke", "fl.availability=0.5", *keys]).federation
    assert (absence_warning(given) is not None) == is_warned


def test_that_a_run_warns_of_rounds_without_those_who_are_kept_away(train):
    with (
        pytest.warns(PhotonWarning, match="fl.availability=0.001: a round needs the updates of"),
        pytest.raises(RoundFailed, match="round 1: 1 of 4"),
    ):
        train("fl.availability=0.001")
