"""Which failures of clients a round may have: an error while one trains, here and in workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import photon
from photon.errors import CorruptCheckpoint, PhotonWarning, RoundFailed, StorageError
from photon.node.client_host import ClientHost
from photon.run.checkpoint import load_parameters
from photon.run.trackers import read_lines


@pytest.fixture
def damaged(smoke):
    """Gives a run after one round, in which client 1's state can no longer be read."""

    def make(*keys: str) -> Path:
        folder = Path(photon.train(smoke("run_uuid=r", "fl.n_rounds=1", *keys)).folder)
        (path,) = (folder / "clients/client_1").glob("round_000001-own-*")
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        return folder

    return make


@pytest.mark.parametrize("workers", [0, 2])
def test_a_client_with_an_error_is_one_of_those_that_may_fail(damaged, workers):
    folder = damaged("fl.accept_failures_cnt=1")
    with pytest.warns(PhotonWarning, match="client 1 has failed: CorruptCheckpoint"):
        photon.resume(folder, ["fl.n_rounds=2", f"photon.workers={workers}"])
    last = read_lines(folder / "metrics.jsonl")[-1]
    assert (last["round"], last["accepted"]) == (2, [0])
    assert list(last["missing"]) == ["1"]
    assert "not those that were written" in last["missing"]["1"]


@pytest.mark.parametrize("workers", [0, 2])
def test_one_too_many_ends_the_run_by_its_own_name(damaged, workers):
    folder = damaged()
    with pytest.raises(CorruptCheckpoint, match="not those that were written"):
        photon.resume(folder, ["fl.n_rounds=2", f"photon.workers={workers}"])


def test_a_failed_round_passes_where_it_is_ignored(damaged):
    folder = damaged("fl.ignore_failed_rounds=true")
    with pytest.warns(PhotonWarning, match="fl.failed_rounds=skip"):
        photon.resume(folder, ["fl.n_rounds=2"])
    before, after = (
        load_parameters(folder / f"checkpoints/round_00000{number}.json") for number in (1, 2)
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_failed_round_is_tried_again_where_it_may_be(smoke, monkeypatch):
    train, calls = ClientHost.train, []

    def fails_once(node, instruction, *args):
        calls.append(instruction.client)
        if calls == [0]:
            raise RuntimeError("no memory")
        return train(node, instruction, *args)

    monkeypatch.setattr(ClientHost, "train", fails_once)
    with pytest.warns(PhotonWarning, match="RuntimeError: no memory"):
        result = photon.train(smoke("fl.n_rounds=1", "fl.failed_rounds=retry"))
    assert calls == [0, 1, 0, 1]
    assert read_lines(Path(result.folder) / "metrics.jsonl")[-1]["accepted"] == [0, 1]


def test_what_is_no_clients_own_is_not_covered(smoke, monkeypatch):
    def full(*_):
        raise StorageError("the disk is full")

    monkeypatch.setattr(ClientHost, "train", full)
    with pytest.raises(StorageError):
        photon.train(smoke("fl.accept_failures_cnt=1", "fl.failed_rounds=skip"))


def test_all_failed_is_no_quorum(smoke, monkeypatch):
    def broken(node, instruction, *_):
        raise RuntimeError(f"broken {instruction.client}")

    monkeypatch.setattr(ClientHost, "train", broken)
    keys = ["fl.accept_failures_cnt=1", "fl.failed_rounds=retry", "fl.round_attempts=1"]
    with pytest.raises(RoundFailed, match=r"client 0: RuntimeError: broken 0; client 1: "):
        photon.train(smoke(*keys))
