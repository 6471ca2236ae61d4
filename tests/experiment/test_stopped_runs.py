"""Stop anywhere and go on: the bits of the uninterrupted run, and nothing trained twice."""

from __future__ import annotations

import itertools
import os
import signal

import pytest
from resuming import VARIANTS, outcome, overrides, steps_taken, train_until_killed

import photon
from photon.errors import Interrupted, StorageError
from photon.run import checkpoint
from photon.server import commits as server
from photon.training.loop import Trainer

KILLS = [
    ("moments averaged", "step", 1),
    ("moments averaged", "step", 24),
    ("moments kept", "step", 33),
    ("centralized", "step", 12),
    ("moments averaged", "between rounds", 2),
    ("moments kept", "between rounds", 3),
    ("moments averaged", "in the middle of writing tensors", 9),
    ("moments kept", "in the middle of writing tensors", 23),
    ("centralized", "in the middle of writing tensors", 4),
    *(("moments kept", "tensors written, manifest not", n) for n in (1, 4, 5, 12, 13)),
    *(("moments averaged", "manifest written", n) for n in (3, 4, 5, 10)),
    ("centralized", "manifest written", 3),
]


@pytest.mark.parametrize(("variant", "moment", "count"), KILLS)
def test_killed_at_any_moment(data_root, tmp_path, uninterrupted, variant, moment, count):
    kind = "centralized" if variant == "centralized" else "federated"
    given = overrides(data_root, tmp_path, *VARIANTS[variant])
    train_until_killed(moment, count, kind, given, tmp_path / "log")
    photon.resume(tmp_path / "run")
    parameters, lines = outcome(tmp_path / "run")
    expected_parameters, expected_lines = uninterrupted[variant]
    assert parameters == expected_parameters
    assert lines == expected_lines
    leftovers = [p for p in (tmp_path / "run").rglob("*") if p.name.endswith(".tmp")]
    assert not leftovers


def test_finished_clients_of_the_open_round_are_not_trained_again(data_root, tmp_path, monkeypatch):
    """Killed in the second client's first segment of round 2: that client's steps are all left. The
    first one's update may not be on the disk yet: then its last segment, a step, is trained anew.
    """
    given = overrides(data_root, tmp_path)
    train_until_killed("step", 16, "federated", given, tmp_path / "log")
    taken = steps_taken(monkeypatch)
    photon.resume(tmp_path / "run")
    again = [9] * (len(taken) - (4 * 2 * 5 - 15))
    assert len(again) <= 1
    assert taken[: len(again) + 5] == [*again, 5, 6, 7, 8, 9]


def test_at_most_one_segment_of_one_client_is_lost(data_root, tmp_path, monkeypatch):
    """Killed in the fifth step of a client: the four steps of two segments are kept."""
    given = overrides(data_root, tmp_path)
    train_until_killed("step", 15, "federated", given, tmp_path / "log")
    taken = steps_taken(monkeypatch)
    photon.resume(tmp_path / "run")
    assert taken[0] == 9
    assert len(taken) == 4 * 2 * 5 - 14


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("after", [0, 3, 17])
def test_a_stop_request_saves_and_resumes(
    data_root, tmp_path, uninterrupted, monkeypatch, variant, after
):
    counter = itertools.count()
    step = Trainer._gradient

    def step_then_signal(self, rows, number):
        if next(counter) == after:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, rows, number)

    monkeypatch.setattr(Trainer, "_gradient", step_then_signal)
    with pytest.raises(Interrupted, match=r"photon train --resume .*run") as caught:
        photon.train(
            overrides(data_root, tmp_path, *VARIANTS[variant]),
            centralized=variant == "centralized",
        )
    assert caught.value.exit_code == 143
    monkeypatch.setattr(Trainer, "_gradient", step)
    taken = steps_taken(monkeypatch)
    photon.resume(tmp_path / "run")
    total = 20 if variant == "centralized" else 40
    assert len(taken) == total - (after + 1), "the current step ended and none is repeated"
    parameters, lines = outcome(tmp_path / "run")
    assert parameters == uninterrupted[variant][0]
    if variant != "centralized":
        assert lines == uninterrupted[variant][1]


def test_a_full_disk_keeps_the_last_round(data_root, tmp_path, uninterrupted, monkeypatch):
    """The third commit cannot be written; after space is made the run ends as if nothing was."""
    import resource

    saved, soft_hard = [], resource.getrlimit(resource.RLIMIT_FSIZE)
    save = checkpoint.save_server_state

    def save_until_full(folder, state, *more):
        if state.round == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, soft_hard[1]))
        saved.append(state.round)
        return save(folder, state, *more)

    monkeypatch.setattr(server, "save_server_state", save_until_full)
    try:
        with pytest.raises(StorageError, match="earlier checkpoints are intact"):
            photon.train(overrides(data_root, tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft_hard)
        monkeypatch.setattr(server, "save_server_state", save)
    assert saved == [1, 2, 3]
    taken = steps_taken(monkeypatch)
    photon.resume(tmp_path / "run")
    assert len(taken) == 10, "round 3's clients had finished; only round 4 is trained"
    assert outcome(tmp_path / "run") == uninterrupted["moments averaged"]


def test_metrics_are_cut_back_to_the_last_commit(data_root, tmp_path, uninterrupted):
    given = overrides(data_root, tmp_path)
    train_until_killed("between rounds", 2, "federated", given, tmp_path / "log")
    metrics = tmp_path / "run/metrics.jsonl"
    with open(metrics, "a") as file:
        file.write('{"round": 3, "uncommitted": true}\n{"round": 4, "cut sho')
    photon.resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == uninterrupted["moments averaged"]
