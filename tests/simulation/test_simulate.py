"""`photon simulate`: the same bits as training, the same records from the same seed, no end of it
but the run's.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

import photon
from loopback import final_digest
from photon.cli.main import run
from photon.config import Config
from photon.errors import PhotonWarning, RoundFailed
from photon.experiment import experiment
from photon.run.results import TrainResult
from photon.run.trackers import read_lines
from photon.simulation.engine import Simulation
from photon.simulation.links import Links, places_of


@pytest.fixture
def simulate(tmp_path):
    """Runs a configuration over links; gives the result."""

    def call(config: Config, said: list[str] | None = None, **links) -> TrainResult:
        lines = [] if said is None else said
        parsed = Links.model_validate(links)
        places = places_of(parsed, config.federation.population, tmp_path / "links.yaml")
        simulation = Simulation(parsed, places)
        config = config.but(machine={"nodes": len(places)})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PhotonWarning)
            result = experiment.train(config, engine=simulation.factory, say=lines.append)
        return simulation.told(result)

    return call


def records(result: TrainResult) -> list[dict]:
    return read_lines(Path(result.folder) / "metrics.jsonl")


def everything(result: TrainResult) -> tuple[str, list[dict], dict | None]:
    return final_digest(result), records(result), result.simulated


SLOW = {"clients": "0-1", "up": "1MB", "down": "2MB", "latency": 0.05, "jitter": 0.02,
        "loss": 0.1, "step_seconds": 0.5, "step_jitter": 0.2}  # fmt: skip


@pytest.mark.parametrize("per_node", [1, 2])
def test_a_simulated_run_has_the_bits_of_a_real_one(smoke, simulate, per_node):
    real = photon.train(smoke("run_uuid=real", "fl.n_rounds=3"))
    group = {"clients": "0-1", "per_node": per_node}
    found = simulate(smoke("run_uuid=simulated", "fl.n_rounds=3"), groups=[group])
    assert final_digest(found) == final_digest(real)
    ours, theirs = records(found), records(real)
    assert [one["val_loss"] for one in ours] == [one["val_loss"] for one in theirs]
    assert [one["accepted"] for one in ours] == [one["accepted"] for one in theirs]


def test_links_change_the_time_and_nothing_else(smoke, simulate):
    fast = simulate(smoke("run_uuid=a"), groups=[{"clients": "0-1", "step_seconds": 0.5}])
    slow = simulate(smoke("run_uuid=b"), groups=[SLOW])
    assert final_digest(fast) == final_digest(slow)
    assert fast.simulated is not None
    assert slow.simulated is not None
    assert slow.simulated["seconds"] > fast.simulated["seconds"]
    assert fast.simulated["device_seconds"]["train"] == pytest.approx(2 * 2 * 3 * 0.5)


def test_the_time_of_a_round_is_the_sum_of_its_parts(smoke, simulate):
    """Down, three steps, up: by the bytes that the run itself counts in its messages."""
    group = {"clients": "0-1", "up": 1e5, "down": 2e5, "latency": 0.25, "step_seconds": 2.0}
    found = simulate(smoke("run_uuid=sum"), groups=[group])
    for record in records(found):
        for up, down in record["client_bytes"].values():
            expected = down / 2e5 + 0.25 + 3 * 2.0 + up / 1e5 + 0.25
            assert record["phase_seconds"]["train"] == pytest.approx(expected, abs=0.03)
        assert record["client_metrics"]["0"]["train_seconds"] == 6.0
        assert record["client_metrics"]["0"]["tokens_per_second"] == pytest.approx(3 * 64 / 6.0)


def test_the_server_s_seconds_count(smoke, simulate):
    group = {"clients": "0-1", "step_seconds": 1.0}
    base = simulate(smoke("run_uuid=a"), groups=[group])
    slow = simulate(smoke("run_uuid=b"), groups=[group], server_seconds=5.0)
    assert base.simulated is not None
    assert slow.simulated is not None
    assert slow.simulated["seconds"] - base.simulated["seconds"] == pytest.approx(2 * 5.0)
    spent = slow.simulated["device_seconds"], base.simulated["device_seconds"]
    assert spent[0]["server"] - spent[1]["server"] == pytest.approx(2 * 2 * 5.0)


@pytest.mark.parametrize("trainer", ["real", "stand-in"])
def test_a_seed_fixes_everything(smoke, simulate, tmp_path, trainer):
    def once(place: str, seed: int) -> tuple[str, list[dict], dict | None]:
        config = smoke("run_uuid=same", "fl.n_rounds=4", f"photon.saving_path={tmp_path / place}",
                       "fl.failed_rounds=retry")  # fmt: skip
        failing = {**SLOW, "failures_every": 6.0, "back_after": 4.0}
        return everything(simulate(config, groups=[failing], seed=seed, trainer=trainer,
                                   noticed_after=1.0))  # fmt: skip

    first, again, other = once("a", 1), once("b", 1), once("c", 2)
    assert first == again
    assert first[2] != other[2]


def test_who_fails_is_asked_again_and_what_is_kept_is_not_trained_twice(smoke, simulate):
    """The bits are those of a run without failures; what was lost is what goodput lacks."""
    said: list[str] = []
    keys = ["fl.n_rounds=2", "llm_config.local_steps=16", "llm_config.save_interval=4"]
    calm = simulate(smoke("run_uuid=calm", *keys), groups=[{"clients": "0-1", "step_seconds": 1}])
    group = {"clients": "0-1", "step_seconds": 1, "failures_every": 20, "back_after": 5}
    found = simulate(smoke("run_uuid=failing", *keys, "fl.failed_rounds=retry"), said,
                     groups=[group], noticed_after=2.0, seed=3)  # fmt: skip
    failures = sum("the node went away; trying again" in line for line in said)
    assert failures >= 3
    assert final_digest(found) == final_digest(calm)
    assert found.simulated is not None
    assert calm.simulated is not None
    assert calm.simulated["goodput"] == 1.0
    lost = found.simulated["tokens_trained"] - found.simulated["tokens_merged"]
    assert 0 < lost <= failures * 3 * 64, "steps since the last segment, which is of four"
    assert found.simulated["goodput"] < 1.0
    assert found.simulated["seconds"] < 2 * 16 + failures * (5 + 4 + 1), (
        "nothing else is waited for"
    )
    assert found.simulated["device_seconds"]["away"] >= 5.0
    assert found.simulated["tokens_merged"] == 2 * 2 * 16 * 64


IN_TRAINING = (["fl.n_rounds=2", "llm_config.local_steps=16"], (1, 20))
BETWEEN_MESSAGES = (
    ["fl.n_rounds=8", "fl.secure_aggregation=true", "fl.aggregate_momenta=false"], (0.1, 6)
)  # fmt: skip


@pytest.mark.parametrize(("keys", "failing"), [IN_TRAINING, BETWEEN_MESSAGES])
def test_a_node_that_dies_is_what_the_others_wait_for(smoke, simulate, keys, failing):
    """Not the server, which takes no time here; also between the messages of a masked round."""
    step_seconds, failures_every = failing
    found = simulate(
        smoke("run_uuid=dying", "fl.failed_rounds=retry", *keys), noticed_after=2.0,
        groups=[{"clients": 0, "step_seconds": 1},
                {"clients": 1, "step_seconds": step_seconds, "failures_every": failures_every,
                 "back_after": 30}],
    )  # fmt: skip
    assert found.simulated is not None
    spent = found.simulated["device_seconds"]
    assert spent["away"] >= 30.0
    assert spent["slowest"] >= 25.0
    assert spent["server"] < 5.0


def test_a_merge_to_which_nothing_comes_in_time_says_who_is_late(smoke, simulate):
    with pytest.raises(RoundFailed, match="client 0: late; client 1: late"):
        simulate(smoke("run_uuid=late", "fl.mode=async", "fl.round_timeout=1"),
                 groups=[{"clients": "0-1", "step_seconds": 10.0}])  # fmt: skip


@pytest.mark.parametrize(
    "key", ["fl.round_timeout=1000", "fl.staleness_exponent=1", "photon.n_nodes=2"]
)
def test_what_counts_in_a_simulation_is_not_said_to_be_idle(tmp_path, monkeypatch, capsys, key):
    monkeypatch.chdir(tmp_path)
    Path("links.yaml").write_text("groups: [{clients: 0-1}]")
    words = ["simulate", "recipe=smoke", "--links", "links.yaml", "fl.n_rounds=1", "fl.quorum=1"]
    assert run([*words, key]) == 0
    assert "no effect" not in capsys.readouterr().err


@pytest.mark.parametrize("sign", ["", "++"])
def test_more_nodes_than_there_are_links_for_are_refused(tmp_path, monkeypatch, capsys, sign):
    monkeypatch.chdir(tmp_path)
    Path("links.yaml").write_text("groups: [{clients: 0-1}]")
    words = ["simulate", "recipe=smoke", "--links", "links.yaml", f"{sign}photon.n_nodes=9"]
    assert run(words) == 2
    assert "photon.n_nodes=9: links.yaml has 2 nodes" in capsys.readouterr().err


def test_a_stand_in_does_not_go_on_with_what_was_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("links.yaml").write_text("groups: [{clients: 0-1, step_seconds: 1}]")
    words = ["simulate", "--links", "links.yaml", "-q"]
    assert run([*words, "recipe=smoke", "run_uuid=real", "fl.n_rounds=1"]) == 0
    assert run([*words, "--stand-in", "--resume", "runs/real", "fl.n_rounds=2"]) == 2
    assert "its clients train in a simulation; go on with" in capsys.readouterr().err
    assert run([*words, "--resume", "runs/real", "fl.n_rounds=2", "photon.workers=2"]) == 0
    told = "photon.workers=2: has no effect here: all sites are in this process"
    assert told in capsys.readouterr().err


def test_nothing_waits_for_ever(smoke, simulate):
    """No client ever ends a step: each is tried so often as one is, and the run says so."""
    hopeless = {"clients": "0-1", "step_seconds": 1000.0, "failures_every": 5, "back_after": 1}
    with pytest.raises(RoundFailed, match="go on with: photon simulate --resume"):
        simulate(smoke("run_uuid=never"), groups=[hopeless], noticed_after=1.0)


def test_two_thousand_clients_with_a_stand_in(tmp_path, monkeypatch, capsys):
    """A few rounds by the command itself, without anybody's data, also where clients are to score
    themselves; nodes that are not asked have no folder of a client.
    """
    monkeypatch.chdir(tmp_path)
    Path("links.yaml").write_text("groups: [{clients: 0-1999, step_seconds: 0.5, up: 1MB}]")
    words = ["simulate", "recipe=smoke", "--links", "links.yaml", "--stand-in", "--json", "-q",
             "run_uuid=many", "fl.n_total_clients=2000", "fl.n_clients_per_round=8",
             "fl.n_rounds=3", "fl.eval_period=2", "fl.split_eval=true"]  # fmt: skip
    assert run(words) == 0
    captured = capsys.readouterr()
    assert "note: a stand-in draws the updates" in captured.err
    told = json.loads(captured.out)["simulated"]
    assert told["devices"] == 2000
    assert told["after_round"] == 0
    assert told["goodput"] == 1.0
    assert told == json.loads(Path("runs/many/summary.json").read_text())["simulated"]
    clients = list(Path("runs/many/nodes/many/clients").glob("client_*"))
    asked = {c for one in read_lines(Path("runs/many/metrics.jsonl")) for c in one["accepted"]}
    assert len(clients) == len(asked) > 8
    assert run(["simulate", "--links", "links.yaml", "--stand-in", "--resume", "runs/many",
                "fl.n_rounds=4"]) == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert "time of devices" in shown
    assert "not asked" in shown
    assert "of 2,000 devices since round 3: utilization" in " ".join(shown.split())
    assert len(read_lines(Path("runs/many/metrics.jsonl"))) == 4
    assert run(["train", "--resume", "runs/many"]) == 2
    assert "where a stand-in draws their updates; go on with: photon simulate" in (
        capsys.readouterr().err
    )
