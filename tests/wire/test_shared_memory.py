"""Shared memory: a payload comes over whole or not at all, and leaves nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from payloads import assert_arrived, fetch_ticket, never, no_seed, values

from photon.container.container import open_container, write_container
from photon.errors import PayloadError, StorageError
from photon.node.mailbox import Mailbox
from photon.wire import shared_memory
from photon.wire.shared_memory import SharedMemory


@pytest.fixture
def no_links(monkeypatch) -> None:
    """As between two file systems."""

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("linked", [True, False])
def test_shared_memory_brings_a_payload(root, written, tmp_path, request, linked):
    if not linked:
        request.getfixturevalue("no_links")
    path, ref = written
    shared = SharedMemory.create("run")
    ticket = shared.offer(path, ref)
    target = tmp_path / "here" / "got"
    target.parent.mkdir()
    fetch_ticket(ticket, target)
    assert_arrived(target, ref)
    assert (target.stat().st_ino == path.stat().st_ino) == linked
    shared.withdraw(ticket)
    assert not list(shared.folder.iterdir())
    assert_arrived(target, ref)
    shared.close()
    assert not list(root.iterdir())


@pytest.mark.parametrize("linked", [True, False])
def test_a_payload_that_was_changed_in_shared_memory_is_refused(
    root, written, tmp_path, request, linked
):
    if not linked:
        request.getfixturevalue("no_links")
    path, ref = written
    shared = SharedMemory.create("run")
    ticket = shared.offer(path, ref)
    with open(ticket["path"], "r+b") as file:
        file.seek(ref.size // 2)
        file.write(b"\xff")
    with pytest.raises(PayloadError, match=f"not the {ref.size} bytes of payload"):
        fetch_ticket(ticket, tmp_path / "got")
    assert not list(tmp_path.glob("got*"))


def test_fetching_over_an_older_file_does_not_change_what_others_link_to(root, written, tmp_path):
    """The older file is a link to a payload that somebody still reads."""
    path, ref = written
    other = write_container(tmp_path / "older", {"a": torch.zeros(3)}, {})
    os.link(tmp_path / "older", tmp_path / "got")
    fetch_ticket(SharedMemory.create("run").offer(path, ref), tmp_path / "got")
    assert_arrived(tmp_path / "got", ref)
    open_container(tmp_path / "older", other)


def test_a_ticket_cannot_name_any_other_file(root, tmp_path):
    digest = "a" * 64
    inside = root / "photon-1-2-3-run"
    for folder in (tmp_path / "photon-1-2-3-run", inside / ".." / "x", root / "other", inside):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / digest).write_text("secret")
    (inside / "other").write_text("secret")
    wrong = [tmp_path / "photon-1-2-3-run" / digest, inside / ".." / "x" / digest,
             inside / "other", root / "other" / digest]  # fmt: skip
    for path in wrong:
        ticket = {"via": "shm", "path": str(path), "digest": digest, "size": 100}
        for action in (lambda t: fetch_ticket(t, tmp_path / "out"), SharedMemory(inside).withdraw):
            with pytest.raises(PayloadError, match="is no place of shared memory"):
                action(ticket)
        assert path.exists()
    with pytest.raises(PayloadError, match="no container: 6 bytes"):
        fetch_ticket({**ticket, "path": str(inside / digest)}, tmp_path / "out")
    os.mkfifo(inside / ("b" * 64))
    ticket = {"via": "shm", "path": str(inside / ("b" * 64)), "digest": "b" * 64, "size": 100}
    with pytest.raises(PayloadError, match="cannot be read"):
        fetch_ticket(ticket, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_shared_memory_a_temporary_folder_serves(tmp_path, monkeypatch, written):
    monkeypatch.setattr(shared_memory, "SHARED", tmp_path / "missing")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path, ref = written
    shared = SharedMemory.create("run")
    fetch_ticket(shared.offer(path, ref), tmp_path / "got")
    assert_arrived(tmp_path / "got", ref)
    assert shared.folder.parent == tmp_path


def test_full_shared_memory_says_what_to_do(root, written, no_links, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    shared = SharedMemory.create("run")
    monkeypatch.setattr("photon.container.container.hash_blocks", full)
    with pytest.raises(StorageError, match=r"No space left .* choose another photon\.transport"):
        shared.offer(*written)
    assert not list(shared.folder.iterdir())


def test_a_node_keeps_no_update_of_an_earlier_base(root, tmp_path):
    """Updates that the server has not taken go when another base comes; taken ones at once."""
    server, box = SharedMemory.create("run"), Mailbox(tmp_path / "mail")
    kept = []
    for number in range(3):
        base = {"params/w": torch.full((10,), float(number))}
        ref = write_container(tmp_path / "base", base, {})
        box.bring_base(server.offer(tmp_path / "base", ref), [], None, no_seed, never)
        path = tmp_path / "answer"
        ref = write_container(path, values(number + 1), {})
        ticket = box.offer(path, ref, {"via": "shm"}, never)
        kept.append(Path(ticket["path"]))
        if number == 1:
            server.withdraw(ticket)
    assert [path.exists() for path in kept] == [False, False, True]
    assert list(kept[0].parent.iterdir()) == [kept[2]]
    box.close()
    server.close()
    assert not list(root.iterdir())
