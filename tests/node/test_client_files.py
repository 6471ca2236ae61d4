"""What clients keep: read ahead of their training, written behind it."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from photon.core.messages import ClientState, Instruction, StreamState, Update
from photon.errors import CorruptCheckpoint, StorageError
from photon.node import client_files
from photon.node.client_files import ClientFiles
from photon.run import artifact, checkpoint
from photon.training.offload import Offload

LONG = 60.0


def ask(client: int, number: int, last: int) -> Instruction:
    return Instruction(run="r", round=number, client=client, first_step=0, local_steps=1,
                       base_digest=f"base of {number}", last_accepted=last)  # fmt: skip


def update_of(asked: Instruction, value: float = 1.0) -> Update:
    return Update(run="r", round=asked.round, client=asked.client,
                  gradient={"w": torch.full((64,), value)}, moments={}, num_tokens=1, num_steps=1,
                  base_digest=asked.base_digest, metrics={"train_loss": 1.0})  # fmt: skip


def state_of(asked: Instruction) -> ClientState:
    moments = {"exp_avg": {"w": torch.full((64,), float(asked.round))}}
    return ClientState(round=asked.round, stream=StreamState(cursor=asked.round), moments=moments)


def keep(files: ClientFiles, asked: Instruction, value: float = 1.0):
    files.behind.enter()
    offload = Offload(torch.device("cpu"))
    return files.keep(asked, update_of(asked, value), state_of(asked), offload.landed())


@pytest.fixture
def files(tmp_path):
    made = ClientFiles(tmp_path, False, 3)
    yield made
    made.close()


@pytest.fixture
def reads(monkeypatch) -> list[tuple[str, bool, str]]:
    """Of states: file, whether it was verified, and the thread."""
    found, load = [], checkpoint.load_client_state

    def noted(path: Path, *, verify: bool = True):
        found.append((path.stem, verify, threading.current_thread().name.partition("_")[0]))
        return load(path, verify=verify)

    monkeypatch.setattr(client_files.checkpoint, "load_client_state", noted)
    return found


def test_what_was_read_ahead_is_used_once(files, reads):
    keep(files, ask(0, 1, 0)).result(LONG)
    following = ask(0, 2, 1)
    files.read_ahead(following)
    state, lost = files.before(following)
    assert (state.round, lost) == (1, False)
    assert reads == [("round_000001", False, "read-ahead")]
    files.before(following)
    assert len(reads) == 2


def test_of_another_client_or_round_it_is_not_used(files, reads):
    for client, number in ((0, 1), (1, 1), (0, 2)):
        keep(files, ask(client, number, number - 1)).result(LONG)
    files.read_ahead(ask(0, 2, 1))
    assert files.before(ask(1, 2, 1))[0].stream.cursor == 1
    assert files.before(ask(0, 3, 2))[0].stream.cursor == 2
    here = [name for name, _, thread in reads if thread == "MainThread"]
    assert here == ["round_000001", "round_000002"]


def test_what_a_round_that_is_done_again_replaces_is_not_used(files):
    """The server goes back while what was read ahead waits, and another base comes of that."""
    keep(files, ask(0, 1, 0)).result(LONG)
    files.read_ahead(ask(0, 2, 1))
    again = replace(ask(0, 1, 0), base_digest="another")
    files.behind.enter()
    anew = replace(state_of(again), optimizer_step=7)
    landed = Offload(torch.device("cpu")).landed()
    files.keep(again, update_of(again), anew, landed).result(LONG)
    assert files.before(ask(0, 2, 1))[0].optimizer_step == 7


def test_of_a_client_that_is_being_written_nothing_is_read_ahead(files, reads, monkeypatch):
    hold, save = threading.Event(), checkpoint.save_answer

    def slow(*what):
        hold.wait(LONG)
        return save(*what)

    monkeypatch.setattr(client_files.checkpoint, "save_answer", slow)
    writing = keep(files, ask(0, 1, 0))
    files.read_ahead(ask(0, 2, 1))
    hold.set()
    files.settle(0)
    assert writing.done()
    assert files.before(ask(0, 2, 1))[1] is False, "the state is there, and was waited for"
    assert reads == [("round_000001", False, "MainThread")]


def test_files_from_before_this_process_are_verified(files, reads, tmp_path):
    keep(files, ask(0, 1, 0)).result(LONG)
    later = ClientFiles(tmp_path, False, 3)
    assert later.before(ask(0, 2, 1))[0].round == 1
    assert files.before(ask(0, 2, 1))[0].round == 1
    assert [verified for _, verified, _ in reads] == [True, False]
    (path,) = tmp_path.glob("client_0/round_000001-own-*")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    later.read_ahead(ask(0, 2, 1))
    with pytest.raises(CorruptCheckpoint, match="to go on without it, remove "):
        later.before(ask(0, 2, 1))
    later.close()


def test_an_answer_takes_the_place_of_the_open_state(files, tmp_path):
    artifact.save(tmp_path / "client_0", "train", {"base": ({}, {})}, {})
    asked = ask(0, 1, 0)
    path = keep(files, asked).result(LONG)
    assert sorted(one.suffix for one in path.parent.iterdir()) == [
        ".json", ".safetensors", ".safetensors",
    ]  # fmt: skip
    assert files.answer(asked) == path
    assert files.answer(ask(0, 2, 1)) is None


def test_the_newest_states_stay_and_the_one_that_was_accepted_last(files):
    for number in range(1, 7):
        path = keep(files, ask(0, number, min(number - 1, 1))).result(LONG)
    kept = [checkpoint.number_of(one) for one in checkpoint.list_checkpoints(path.parent)]
    assert kept == [1, 4, 5, 6]


def test_a_full_disk_leaves_nothing_that_is_believed(files, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    asked = ask(0, 1, 0)
    with monkeypatch.context() as patch:
        patch.setattr(artifact.os, "fsync", full)
        with pytest.raises(StorageError, match=r"cannot write \(No space left on device\)"):
            keep(files, asked).result(LONG)
        files.settle(0)
    assert files.answer(asked) is None
    assert files.before(ask(0, 2, 1)) == (ClientState(round=0, stream=StreamState()), True)
    assert keep(files, asked).result(LONG) == files.answer(asked)


def test_what_it_remembers_of_its_writing_does_not_grow_with_the_rounds(files):
    for number in range(1, 6):
        for client in (0, 1):
            keep(files, ask(client, number, number - 1)).result(LONG)
    assert len(files._written) == 2


def test_a_state_that_came_of_something_else_is_not_the_one_asked_for(files):
    """The round was trained anew on another node: what came of it here was never accepted."""
    keep(files, ask(0, 1, 0)).result(LONG)
    following = ask(0, 2, 1)
    files.read_ahead(following)
    fresh = ClientState(round=0, stream=StreamState())
    assert files.before(replace(following, descent="another")) == (fresh, True)
    assert files.before(following)[1] is False, "of an older server, which does not know"
