"""A fetch by signed URLs over links that break: it goes on, and brings the whole payload once."""

from __future__ import annotations

import http.server
import math
import socket
import threading
import time
from functools import partial
from typing import ClassVar

import pytest
import torch
from payloads import assert_arrived, never, no_seed

from photon.config.schema import Machine
from photon.container.container import ContainerRef, write_container
from photon.errors import PayloadError
from photon.node.mailbox import Mailbox
from photon.wire import signed_urls
from photon.wire.chunks import ChunkWriter
from photon.wire.signed_urls import fetch, upload
from photon.wire.stores import allowed_stores


class Lossy(http.server.BaseHTTPRequestHandler):
    """Serves one file by ranges, as told: cuts links, is busy, ignores ranges."""

    data = b""
    cut_after = -1
    most = math.inf
    refusals: ClassVar[list[int]] = []
    served: ClassVar[list[tuple[int, int]]] = []
    honours_ranges = True
    goes_on = threading.Event()

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
        self.wfile.write(kind.data[first : min(first + 1000, end)])
        if kind.goes_on.wait(10):
            self.wfile.write(kind.data[first + 1000 : end])

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture
def lossy(written, monkeypatch):
    path, _ = written
    for name, value in (("data", path.read_bytes()), ("refusals", []), ("served", [])):
        monkeypatch.setattr(Lossy, name, value)
    Lossy.goes_on.set()
    monkeypatch.setattr(signed_urls, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(signed_urls, "SPAN_BYTES", 64 << 10)
    monkeypatch.setattr(signed_urls, "PIECE_BYTES", 4096)
    monkeypatch.setattr(signed_urls.time, "sleep", lambda seconds: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Lossy) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield {"urls": [f"http://127.0.0.1:{server.server_port}/x"], "part": 1 << 20}
        Lossy.goes_on.set()
        server.shutdown()
        thread.join()


def test_a_link_that_is_cut_again_and_again_carries_all(lossy, written, tmp_path, monkeypatch):
    """Each span takes more attempts than may fail, and each attempt brings some of it."""
    _, ref = written
    monkeypatch.setattr(Lossy, "cut_after", 10_000)
    fetch(lossy, ref, tmp_path / "got", never)
    assert_arrived(tmp_path / "got", ref)
    assert len(Lossy.served) > signed_urls.ATTEMPTS * -(-ref.size // (64 << 10))
    assert sum(end - start for start, end in Lossy.served) == ref.size


def test_a_fetch_goes_on_where_an_earlier_one_was_cut(lossy, written, tmp_path, monkeypatch):
    """Links break after 10,000 bytes, and then bring nothing any more; then they hold."""
    _, ref = written
    monkeypatch.setattr(Lossy, "cut_after", 10_000)
    monkeypatch.setattr(Lossy, "most", 50_000)
    with pytest.raises(PayloadError, match="IncompleteRead"):
        fetch(lossy, ref, tmp_path / "got", never)
    there = sum(end - start for start, end in Lossy.served)
    assert 50_000 <= there < ref.size
    assert not (tmp_path / "got").exists()
    Lossy.served.clear()
    monkeypatch.setattr(Lossy, "cut_after", -1)
    monkeypatch.setattr(Lossy, "most", math.inf)
    fetch(lossy, ref, tmp_path / "got", never)
    assert_arrived(tmp_path / "got", ref)
    assert sum(end - start for start, end in Lossy.served) == ref.size - there


def test_a_busy_store_is_asked_again(lossy, written, tmp_path):
    _, ref = written
    Lossy.refusals += [503, 429, 500]
    fetch(lossy, ref, tmp_path / "got", never)
    assert_arrived(tmp_path / "got", ref)
    Lossy.refusals += [403] * 8
    with pytest.raises(PayloadError, match="HTTP Error 403"):
        fetch(lossy, ref, tmp_path / "other", never)
    assert len(Lossy.refusals) >= 4, "a refusal is not asked again"


def test_a_store_without_ranges_is_refused(lossy, written, tmp_path, monkeypatch):
    _, ref = written
    monkeypatch.setattr(Lossy, "honours_ranges", False)
    with pytest.raises(PayloadError, match="gives no ranges"):
        fetch(lossy, ref, tmp_path / "got", never)


def test_an_earlier_fetch_of_something_else_is_not_gone_on_with(lossy, written, tmp_path):
    _, ref = written
    other = ContainerRef("0" * 64, ref.size)
    writer = ChunkWriter(tmp_path / "got", other)
    writer.write(0, b"x" * 1000)
    fetch(lossy, ref, tmp_path / "got", never)
    assert_arrived(tmp_path / "got", ref)


def test_a_node_that_is_stopped_waits_for_no_slow_link(lossy, tmp_path):
    """The link brings 1000 bytes of a span at a time, and no more before the node has ended."""
    ref = write_container(tmp_path / "base", {"params/w": torch.arange(50_000.0)}, {})
    Lossy.data = (tmp_path / "base").read_bytes()
    store = allowed_stores(Machine(transport_hosts=[lossy["urls"][0].removesuffix("/x")]))
    box = Mailbox(tmp_path / "mail", store)
    ticket = {"via": "s3", **lossy, **ref.to_json()}
    Lossy.goes_on.clear()
    begun = time.monotonic()
    with pytest.raises(PayloadError, match="stopped"):
        box.bring_base(ticket, [], None, no_seed, lambda: len(Lossy.served) == 4)
    assert time.monotonic() - begun < 9
    gaps = ChunkWriter(tmp_path / "mail" / f"base-{ref.digest}", ref).missing()
    assert ref.size > sum(end - start for start, end in gaps)
    Lossy.goes_on.set()
    box.bring_base(ticket, [], None, no_seed, never)


@pytest.mark.parametrize("way", ["down", "up"])
def test_a_node_that_is_stopped_waits_for_no_store_that_is_silent(written, tmp_path, way):
    """It takes the connection, and says nothing."""
    path, ref = written
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = [f"http://127.0.0.1:{silent.getsockname()[1]}/x"]
        ticket = {"via": "s3", "urls": urls, "part": 1 << 20, "key": "k"}
        threading.Timer(0.3, stop.set).start()
        begun = time.monotonic()
        go = partial(fetch, ticket, ref, tmp_path / "got")
        go = go if way == "down" else partial(upload, path, ref, ticket)
        with pytest.raises(PayloadError, match="stopped"):
            go(stop.is_set)
    assert time.monotonic() - begun < 2


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
    _, found = box.bring_base(ticket, [], None, no_seed, never)
    assert torch.equal(found.params["w"], base["params/w"])
    assert sum(end - start for start, end in Lossy.served) == ref.size - 99_000
    assert [path.name for path in folder.iterdir()] == [f"base-{ref.digest}"]
