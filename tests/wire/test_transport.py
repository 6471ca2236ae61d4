"""Transports: a payload comes over whole or not at all, in bounded memory, and leaves nothing."""

from __future__ import annotations

import http.server
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import urllib.error
import urllib.request
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from photon.config.schema import Machine
from photon.container import container
from photon.container.container import (
    ContainerRef,
    copy_container,
    open_container,
    verify_container,
    write_container,
)
from photon.core.messages import Broadcast
from photon.errors import PayloadError, StorageError
from photon.machine import owned_folder
from photon.node.mailbox import Mailbox
from photon.wire import object_store, shared_memory, signed_urls
from photon.wire.chunks import ChunkWriter, read_chunk
from photon.wire.object_store import ObjectStore
from photon.wire.shared_memory import SharedMemory
from photon.wire.signed_urls import fetch, upload
from photon.wire.stores import allowed_stores


def no_seed() -> Broadcast:
    raise AssertionError("the ticket says where the base is")


def values(count: int = 50_000) -> dict[str, torch.Tensor]:
    return {"a": torch.arange(float(count)), "b": torch.arange(7)}


@pytest.fixture
def written(tmp_path) -> tuple[Path, ContainerRef]:
    path = tmp_path / "payload"
    return path, write_container(path, values(), {"k": 1})


def assert_arrived(path: Path, ref: ContainerRef) -> None:
    found, facts = open_container(path, ref)
    assert facts == {"k": 1}
    assert all(torch.equal(found[name], value) for name, value in values().items())
    assert not {p.name for p in path.parent.iterdir()} & {f"{path.name}.part", f"{path.name}.spans"}


def fetch_ticket(ticket: dict, path: Path) -> None:
    ways = {"shm": SharedMemory.fetch, "s3": fetch}
    ways[ticket["via"]](ticket, ContainerRef.from_json(ticket), path)


# ---- shared memory ----


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A folder in place of the machine's shared memory."""
    folder = tmp_path / "memory"
    folder.mkdir()
    monkeypatch.setattr(shared_memory, "SHARED", folder)
    return folder


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
        box.bring_base(server.offer(tmp_path / "base", ref), [], None, no_seed)
        path = tmp_path / "answer"
        ticket = box.offer(path, write_container(path, values(number + 1), {}), {"via": "shm"})
        kept.append(Path(ticket["path"]))
        if number == 1:
            server.withdraw(ticket)
    assert [path.exists() for path in kept] == [False, False, True]
    assert list(kept[0].parent.iterdir()) == [kept[2]]
    box.close()
    server.close()
    assert not list(root.iterdir())


# ---- object store ----


@pytest.fixture
def store(s3, monkeypatch, request) -> ObjectStore:
    """Parts, requests and pieces so small that every payload takes several."""
    monkeypatch.setattr(object_store, "PART_BYTES", 64 << 10)
    monkeypatch.setattr(signed_urls, "SPAN_BYTES", 20_000)
    monkeypatch.setattr(signed_urls, "PIECE_BYTES", 6_000)
    monkeypatch.setattr(signed_urls.time, "sleep", lambda seconds: None)
    return ObjectStore(s3(request.node.name.replace("_", "-")[:60]) + "/prefix", "run")


def test_a_base_goes_down_by_a_signed_url(store, written, tmp_path):
    path, ref = written
    ticket = store.offer(path, ref)
    assert f"/run/base/{ref.digest}/" in ticket["urls"][0], "the key is the content's digest"
    fetch_ticket(ticket, tmp_path / "got")
    assert_arrived(tmp_path / "got", ref)
    assert store.offer(path, ref).keys() == ticket.keys()
    store.withdraw(ticket)
    with pytest.raises(PayloadError, match=r"object store 127\.0\.0\.1:\d+: HTTP Error 404"):
        fetch_ticket(ticket, tmp_path / "again")


def test_a_base_that_is_there_is_not_sent_again(store, written, tmp_path, monkeypatch):
    """Nor are those of its parts that an earlier attempt has put there."""
    path, ref = written
    ticket = store.offer(path, ref)
    sent = []

    def spy(url, path, start, length):
        sent.append(start)
        put_part(url, path, start, length)

    put_part = object_store.put_part
    monkeypatch.setattr(object_store, "put_part", spy)
    store.offer(path, ref)
    assert sent == []
    store._remote.delete(f"base/{ref.digest}/00002")
    store.offer(path, ref)
    assert sent == [2 * (64 << 10)]
    fetch_ticket(ticket, tmp_path / "got")
    assert_arrived(tmp_path / "got", ref)


def test_an_update_goes_up_by_signed_urls_and_a_node_needs_no_secret(
    store, written, tmp_path, monkeypatch
):
    path, ref = written
    store.offer(path, ref)
    grant = store.grant(1, ref.size)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    ticket = upload(path, ref, grant)
    assert "urls" not in ticket
    fetch_ticket(store.locate(ticket), tmp_path / "got")
    assert_arrived(tmp_path / "got", ref)


def test_what_was_granted_is_deleted_when_taken_or_at_the_end(store, written, s3_server):
    path, ref = written
    store.offer(path, ref)
    taken, left = store.grant(1, ref.size), store.grant(1, ref.size)
    for grant in (taken, left):
        ticket = upload(path, ref, grant)
        places = store.locate(ticket)["urls"]
        assert len(places) == 4
        store.withdraw(ticket) if grant is taken else store.close()
        for url in places:
            with pytest.raises(urllib.error.HTTPError, match="404") as gone:
                urllib.request.urlopen(url, timeout=10)
            gone.value.close()
    with pytest.raises(PayloadError, match="not asked to be put"):
        store.locate(ticket)


def test_what_a_killed_server_has_left_is_deleted_by_the_next(
    s3, store, written, tmp_path, monkeypatch
):
    path, ref = written
    store.offer(path, ref)
    upload(path, ref, store.grant(1, ref.size))
    for name in ("base/" + "0" * 64 + "/00000", "other/00000"):
        store._remote.write(name, b"x")
    same = store._remote.names(f"base/{ref.digest}")
    assert len(store._remote.names("update")) == len(same) == 4
    following = ObjectStore(store._remote.url.removesuffix("/run"), "run")
    monkeypatch.setattr(object_store, "put_part", lambda *_: pytest.fail("it is there already"))
    ticket = following.offer(path, ref)
    assert following._remote.names("base") == same
    assert following._remote.names("update") == []
    assert following._remote.names("other") == ["other/00000"], "that is nobody's business"
    upload(path, ref, following.grant(1, ref.size))
    following.offer(path, ref)
    assert len(following._remote.names("update")) == 4, "a round's own updates stay"
    fetch_ticket(ticket, tmp_path / "got")
    assert_arrived(tmp_path / "got", ref)


def test_updates_that_come_before_the_first_base_goes_out_stay(store, written, tmp_path):
    """The first parameters are made of the seed: nothing is offered until a node asks for them."""
    path, ref = written
    ticket = upload(path, ref, store.grant(1, ref.size))
    store.offer(path, ref)
    fetch_ticket(store.locate(ticket), tmp_path / "got")
    assert_arrived(tmp_path / "got", ref)


def test_a_node_cannot_point_elsewhere_or_send_more_than_granted(store, written, tmp_path):
    path, ref = written
    store.offer(path, ref)
    grant = store.grant(1, ref.size)
    ticket = upload(path, ref, grant)
    for key in ("base", "../../other", None, 3, grant["key"] + "x"):
        with pytest.raises(PayloadError, match="not asked to be put"):
            store.locate({**ticket, "key": key})
    with pytest.raises(PayloadError, match="more than granted"):
        store.locate({**ticket, "size": 1 << 40})
    with pytest.raises(PayloadError, match="were granted"):
        upload(path, ref, {**grant, "urls": grant["urls"][:1]})
    for urls in (None, [], [3], ["file:///etc/passwd"], "http://x"):
        with pytest.raises(PayloadError, match="its ticket"):
            fetch({**ticket, "urls": urls, "part": 1 << 20}, ref, tmp_path / "got")


def test_something_else_in_the_store_is_refused(store, written, tmp_path):
    path, ref = written
    store.offer(path, ref)
    ticket = upload(path, ref, store.grant(1, ref.size))
    urls = store.locate(ticket)["urls"]
    store._remote.write(f"{ticket['key']}/00001", bytes(64 << 10))
    with pytest.raises(PayloadError, match=f"not the {ref.size} bytes of payload"):
        fetch_ticket({**store.locate(ticket), "urls": urls}, tmp_path / "got")
    assert [p.name for p in tmp_path.glob("got*")] == []


class Lossy(http.server.BaseHTTPRequestHandler):
    """Serves one file by ranges, as told: cuts links, is busy, ignores ranges."""

    data = b""
    cut_after = -1
    most = math.inf
    refusals: ClassVar[list[int]] = []
    served: ClassVar[list[tuple[int, int]]] = []
    honours_ranges = True

    def do_GET(self):
        kind = type(self)
        if kind.refusals:
            self.send_error(kind.refusals.pop())
            return
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        if not kind.honours_ranges:
            first, last = 0, len(kind.data) - 1
        self.send_response(206 if kind.honours_ranges else 200)
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        end = last + 1
        if kind.cut_after >= 0:
            end = min(end, first + kind.cut_after)
        if sum(stop - start for start, stop in kind.served) >= kind.most:
            end = first
        kind.served.append((first, end))
        self.wfile.write(kind.data[first:end])

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture
def lossy(written, monkeypatch):
    path, _ = written
    for name, value in (("data", path.read_bytes()), ("refusals", []), ("served", [])):
        monkeypatch.setattr(Lossy, name, value)
    monkeypatch.setattr(signed_urls, "SPAN_BYTES", 64 << 10)
    monkeypatch.setattr(signed_urls, "PIECE_BYTES", 4096)
    monkeypatch.setattr(signed_urls.time, "sleep", lambda seconds: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Lossy) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield {"urls": [f"http://127.0.0.1:{server.server_port}/x"], "part": 1 << 20}
        server.shutdown()
        thread.join()


def test_a_link_that_is_cut_again_and_again_carries_all(lossy, written, tmp_path, monkeypatch):
    """Each span takes more attempts than may fail, and each attempt brings some of it."""
    _, ref = written
    monkeypatch.setattr(Lossy, "cut_after", 10_000)
    fetch(lossy, ref, tmp_path / "got")
    assert_arrived(tmp_path / "got", ref)
    assert len(Lossy.served) > signed_urls.ATTEMPTS * -(-ref.size // (64 << 10))
    assert sum(end - start for start, end in Lossy.served) == ref.size


def test_a_fetch_goes_on_where_an_earlier_one_was_cut(lossy, written, tmp_path, monkeypatch):
    """Links break after 10,000 bytes, and then bring nothing any more; then they hold."""
    _, ref = written
    monkeypatch.setattr(Lossy, "cut_after", 10_000)
    monkeypatch.setattr(Lossy, "most", 50_000)
    with pytest.raises(PayloadError, match="IncompleteRead"):
        fetch(lossy, ref, tmp_path / "got")
    there = sum(end - start for start, end in Lossy.served)
    assert 50_000 <= there < ref.size
    assert not (tmp_path / "got").exists()
    Lossy.served.clear()
    monkeypatch.setattr(Lossy, "cut_after", -1)
    monkeypatch.setattr(Lossy, "most", math.inf)
    fetch(lossy, ref, tmp_path / "got")
    assert_arrived(tmp_path / "got", ref)
    assert sum(end - start for start, end in Lossy.served) == ref.size - there


def test_a_busy_store_is_asked_again(lossy, written, tmp_path):
    _, ref = written
    Lossy.refusals += [503, 429, 500]
    fetch(lossy, ref, tmp_path / "got")
    assert_arrived(tmp_path / "got", ref)
    Lossy.refusals += [403] * 8
    with pytest.raises(PayloadError, match="HTTP Error 403"):
        fetch(lossy, ref, tmp_path / "other")
    assert len(Lossy.refusals) >= 4, "a refusal is not asked again"


def test_a_store_without_ranges_is_refused(lossy, written, tmp_path, monkeypatch):
    _, ref = written
    monkeypatch.setattr(Lossy, "honours_ranges", False)
    with pytest.raises(PayloadError, match="gives no ranges"):
        fetch(lossy, ref, tmp_path / "got")


def test_an_earlier_fetch_of_something_else_is_not_gone_on_with(lossy, written, tmp_path):
    _, ref = written
    other = ContainerRef("0" * 64, ref.size)
    writer = ChunkWriter(tmp_path / "got", other)
    writer.write(0, b"x" * 1000)
    fetch(lossy, ref, tmp_path / "got")
    assert_arrived(tmp_path / "got", ref)


def test_a_node_that_was_killed_goes_on_with_its_base(lossy, tmp_path):
    folder = tmp_path / "mail"
    base = {"params/w": torch.arange(50_000.0)}
    ref = write_container(tmp_path / "base", base, {})
    Lossy.data = (tmp_path / "base").read_bytes()
    store = allowed_stores(Machine(transport_hosts=[lossy["urls"][0].removesuffix("/x")]))
    Mailbox(folder, store)
    writer = ChunkWriter(folder / f"base-{ref.digest}", ref)
    writer.write(1000, Lossy.data[1000:100_000])
    (folder / "client_0.payload").write_bytes(b"of the process that was killed")
    ticket = {"via": "s3", **lossy, **ref.to_json()}
    box = Mailbox(folder, store)
    _, found = box.bring_base(ticket, [], None, no_seed)
    assert torch.equal(found.params["w"], base["params/w"])
    assert sum(end - start for start, end in Lossy.served) == ref.size - 99_000
    assert [path.name for path in folder.iterdir()] == [f"base-{ref.digest}"]


# ---- pieces ----


def test_a_writer_goes_on_with_what_an_earlier_one_was_given(written, tmp_path):
    path, ref = written
    first = ChunkWriter(tmp_path / "got", ref)
    for start in (0, 1000, 5000):
        first.write(start, read_chunk(path, start, 1000))
    with open(tmp_path / "got.spans", "a") as log:
        log.write("9000 99")  # the process died while it noted this one
    second = ChunkWriter(tmp_path / "got", ref)
    assert second.missing() == [(2000, 5000), (6000, ref.size)]
    for start, end in second.missing():
        second.write(start, read_chunk(path, start, end - start))
    second.finish()
    assert_arrived(tmp_path / "got", ref)
    assert ChunkWriter(tmp_path / "got", ref).missing() == [(0, ref.size)]


def test_a_piece_is_not_compared_with_all_that_have_come(tmp_path):
    """A payload of 100 GB has a hundred thousand: the last ones would take longer than the link."""

    class Searched(list):
        def __contains__(self, span):
            pytest.fail("looks at each")

    ref = ContainerRef("0" * 64, 40)
    writer = ChunkWriter(tmp_path / "got", ref)
    writer._spans = Searched()
    for start in (20, 0, 30, 20, 10, 0):
        writer.write(start, b"x" * 10)
    assert writer._spans == [(start, start + 10) for start in (0, 10, 20, 30)]


@pytest.mark.parametrize("line", ["5 3", "0 9999999999", "x y", "1 2 3", "500 1500", "-1 5"])
def test_a_log_that_makes_no_sense_is_begun_anew(written, tmp_path, line):
    path, ref = written
    first = ChunkWriter(tmp_path / "got", ref)
    first.write(0, read_chunk(path, 0, 1000))
    with open(tmp_path / "got.spans", "a") as log:
        log.write(f"{line}\n")
    assert ChunkWriter(tmp_path / "got", ref).missing() == [(0, ref.size)]


def test_a_piece_that_finds_no_room_can_come_again(written, tmp_path, monkeypatch):
    path, ref = written
    writer = ChunkWriter(tmp_path / "got", ref)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(StorageError, match="No space left"):
            writer.write(0, path.read_bytes())
    writer.write(0, path.read_bytes())
    writer.finish()
    assert_arrived(tmp_path / "got", ref)


def test_a_store_that_is_not_there_is_named(s3, written):
    path, ref = written
    missing = ObjectStore("s3://no-such-bucket/x", "run")
    with pytest.raises(PayloadError, match=r"object store .*404.*\(NoSuchBucket\)"):
        missing.offer(path, ref)


# ---- memory ----


def peak_of(action) -> int:
    """Bytes that Python and its buffers had at the most during an action, beyond those before."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_way_of_a_payload_holds_more_than_pieces_of_it(s3, tmp_path, monkeypatch):
    """8 MB, blocks of 64 KiB; tensors and maps of files are not of Python's memory."""
    monkeypatch.setattr(container, "BLOCK_BYTES", 64 << 10)
    monkeypatch.setattr(object_store, "PART_BYTES", 2 << 20)
    monkeypatch.setattr(signed_urls, "PIECE_BYTES", 64 << 10)
    path, tensors = tmp_path / "p", {"a": torch.zeros(2_000_000)}
    ref = write_container(path, tensors, {})
    store = ObjectStore(s3("memory"), "run")

    def there_and_back():
        fetch_ticket(store.offer(path, ref), tmp_path / "down")
        fetch_ticket(store.locate(upload(path, ref, store.grant(1, ref.size))), tmp_path / "up")

    ways = {
        "write": lambda: write_container(path, tensors, {}),
        "verify": lambda: verify_container(path, ref),
        "map": lambda: open_container(path, ref),
        "copy": lambda: copy_container(path, tmp_path / "copy", ref),
        "object store": there_and_back,
    }
    there_and_back()  # what is imported then is not counted
    peaks = {name: peak_of(way) for name, way in ways.items()}
    assert {name: peak for name, peak in peaks.items() if peak > ref.size / 4} == {}
