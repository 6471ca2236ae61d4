"""Folders that a process owns: swept after its death, and no others."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from photon.machine import owned_folder
from photon.wire.shared_memory import SharedMemory


def test_folders_of_dead_owners_are_swept_and_no_others(root):
    own = f"{os.getpid()}-{owned_folder.start_time(os.getpid())}"
    here = owned_folder.namespace()
    shared = SharedMemory.create("run-with-dashes")
    dead = root / f"photon-999999999-123-{here}-run"
    recycled = root / f"photon-{os.getpid()}-{own.split('-')[1]}9-{here}-run"
    elsewhere = root / f"photon-999999999-123-{here}9-run"
    stranger = root / "somebody-elses"
    for folder in (dead, recycled, elsewhere, stranger):
        folder.mkdir()
    other = SharedMemory.create("run-with-dashes")
    assert set(root.iterdir()) == {shared.folder, other.folder, elsewhere, stranger}
    assert shared.folder != other.folder
    for each in (shared, other):
        each.close()
    assert set(root.iterdir()) == {elsewhere, stranger}


OWNER = """
import sys, time, torch
from pathlib import Path
from photon.wire import shared_memory
from photon.container.container import write_container
shared_memory.SHARED = Path(sys.argv[1])
shared = shared_memory.SharedMemory.create("run")
ref = write_container(shared.folder / "p", {"a": torch.zeros(1000)}, {})
print(shared.offer(shared.folder / "p", ref)["path"], flush=True)
time.sleep(600)
"""


def test_nothing_stays_behind_an_owner_that_is_killed(root):
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(root)], stdout=subprocess.PIPE, text=True
    )
    try:
        place = Path(process.stdout.readline().strip())
        assert place.stat().st_size > 4000
        SharedMemory.create("while-it-lives").close()
        assert place.exists()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert place.exists(), "a killed process cleans nothing up"
    SharedMemory.create("after").close()
    assert not list(root.iterdir())


@pytest.fixture
def temporary(monkeypatch):
    """A short folder, in which sockets may be."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield Path(folder)


@pytest.mark.parametrize("name", ["x" * 90, "o'clock"], ids=["deep", "quoted"])
def test_sockets_have_room_wherever_temporary_files_lie(temporary, monkeypatch, name):
    """And a path that can be told to a SuperNode, in quotes."""
    folder = temporary / name
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with (
        owned_folder.sockets_folder() as home,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
    ):
        listener.bind(str(home / "relay"))
        assert "'" not in str(home)


def test_sockets_of_killed_nodes_are_swept(temporary, monkeypatch):
    """And those of the living, of other users and of other programs are left alone."""
    code = "from photon.machine.owned_folder import sockets_folder as f\nimport os, signal\n"
    code += "with f() as home:\n open(home / 'node', 'w').close()\n"
    code += " os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(temporary)})
    (left,) = temporary.iterdir()
    assert (left / "node").exists()
    (temporary / "photon-notes").mkdir()
    others = temporary / left.name.replace("photon-", "photon-9", 1)
    others.mkdir()
    uids = {others: os.getuid() + 1}
    monkeypatch.setattr(owned_folder, "_is_ours", lambda path: path not in uids)
    with owned_folder.sockets_folder() as home:
        assert not left.exists()
        assert home.stat().st_mode & 0o077 == 0
        with owned_folder.sockets_folder() as other:
            assert home.exists()
            assert other != home
    assert {path.name for path in temporary.iterdir()} == {"photon-notes", others.name}
