"""Commits behind the training of the next round."""

from __future__ import annotations

import threading

import pytest
import torch

from photon.core.messages import ServerState
from photon.errors import StorageError
from photon.run import artifact
from photon.run.base import base_ref, received_of
from photon.run.checkpoint import (
    list_checkpoints,
    load_base,
    load_server_state,
    number_of,
    round_path,
    save_server_state,
)
from photon.server.commits import Commits

LONG = 60.0


def state(number: int) -> ServerState:
    values = {"w": torch.full((50,), float(number))}
    return ServerState(round=number, step=number, params=values, outer={"momentum": values})


@pytest.fixture
def opened(tmp_path):
    """Gives commits after round 1, and the event that lets manifests be written."""
    save_server_state(tmp_path, state(1))
    told: list[str] = []
    made = Commits(tmp_path, 1, 2, lambda: told.append(threading.current_thread().name))
    yield made, told
    made.close()


@pytest.fixture
def held(monkeypatch):
    """No manifest is written until this is set."""
    let, write = threading.Event(), artifact._write_manifest

    def waiting(*what):
        assert let.wait(LONG)
        write(*what)

    monkeypatch.setattr(artifact, "_write_manifest", waiting)
    yield let
    let.set()


def test_the_base_is_there_before_it_is_durable(opened, held, tmp_path):
    commits, told = opened
    commits.add(state(2), {"round": 2})
    base = commits.base(state(2), None)
    file = base.file.result(LONG)
    assert torch.equal(load_base(file).params["w"], state(2).params["w"])
    assert base.ref == base_ref(received_of(state(2)))
    assert not round_path(tmp_path, 2).exists()
    assert not told
    held.set()
    commits.settle()
    assert load_server_state(round_path(tmp_path, 2)).round == 2
    assert [name.partition("_")[0] for name in told] == ["write-behind"]
    assert not commits.has_failed


def test_one_at_a_time_and_the_newest_stay(opened, tmp_path):
    commits, told = opened
    for number in range(2, 6):
        commits.add(state(number), None)
    commits.close()
    assert [number_of(path) for path in list_checkpoints(tmp_path)] == [4, 5]
    assert len(told) == 4


def test_a_commit_that_fails_is_told_by_whatever_comes_next(opened, held, monkeypatch, tmp_path):
    commits, told = opened

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact, "_write_manifest", full)
    commits.add(state(2), None)
    for tell in (commits.settle, lambda: commits.add(state(3), None), commits.settle):
        with pytest.raises(StorageError, match="earlier checkpoints are intact"):
            tell()
        assert commits.has_failed
    commits.close()
    assert not told
    assert load_server_state(list_checkpoints(tmp_path)[-1]).round == 1


def test_whoever_waits_for_a_base_that_cannot_be_written_is_told(opened, monkeypatch):
    commits, _ = opened

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact, "_write_part", full)
    commits.add(state(2), None)
    with pytest.raises(StorageError, match="No space left on device"):
        commits.base(state(2), None).file.result(LONG)


def test_close_waits_for_what_was_added(opened, held, tmp_path):
    commits, _ = opened
    commits.add(state(2), None)
    closing = threading.Thread(target=commits.close)
    closing.start()
    assert closing.is_alive()
    held.set()
    closing.join(LONG)
    assert round_path(tmp_path, 2).exists()


def test_what_a_killed_process_did_not_prune_is_pruned(tmp_path):
    for number in range(1, 5):
        save_server_state(tmp_path, state(number))
    Commits(tmp_path, 4, 2, lambda: None).close()
    assert [number_of(path) for path in list_checkpoints(tmp_path)] == [3, 4]
