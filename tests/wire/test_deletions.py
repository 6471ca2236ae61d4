"""A store that refuses to delete: payloads have come all the same."""

from __future__ import annotations

import http.server
import threading
import warnings

import pytest
import torch

from photon.container.container import ContainerRef, open_container, write_container
from photon.errors import DataError, PayloadError, PhotonWarning
from photon.wire.object_store import ObjectStore

LONG = 5.0


@pytest.fixture
def store(tmp_path, monkeypatch) -> ObjectStore:
    """A folder in place of a bucket; who has its keys may write, and not delete."""
    pytest.importorskip("obstore")
    store = ObjectStore(f"file://{tmp_path / 'store'}", "run")

    def refuse(name: str) -> None:
        raise DataError(f"{name}: HTTP Error 503: Slow Down")

    monkeypatch.setattr(store._remote, "delete", refuse)
    monkeypatch.setattr(store._remote, "sign", lambda method, name, valid: f"http://store/{name}")
    return store


def granted(store: ObjectStore, ref: ContainerRef) -> dict:
    return {"via": "s3", "key": store.grant(1, ref.size)["key"], **ref.to_json()}


def test_what_cannot_be_deleted_is_told_once(store, tmp_path):
    ref = write_container(tmp_path / "p", {"w": torch.ones(5)}, {})
    with pytest.warns(PhotonWarning, match=r"objects stay .*503: Slow Down"):
        store.withdraw(granted(store, ref))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.withdraw({"via": "s3", **ref.to_json()})
        granted(store, ref)
        store.close()


def test_an_update_that_cannot_be_deleted_has_come(store, tmp_path):
    ref = write_container(tmp_path / "p", {"w": torch.arange(5.0)}, {"k": 1})
    data = (tmp_path / "p").read_bytes()

    class Serving(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(206)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Serving) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        url = f"http://127.0.0.1:{server.server_port}"
        store._remote.sign = lambda method, name, valid: f"{url}/{name}"
        try:
            with pytest.warns(PhotonWarning, match="objects stay"):
                assert list(store.receive(granted(store, ref), ref, tmp_path / "got")) == []
        finally:
            server.shutdown()
    tensors, facts = open_container(tmp_path / "got", ref)
    assert torch.equal(tensors["w"], torch.arange(5.0))
    assert facts == {"k": 1}


def test_a_server_that_ends_waits_for_no_slow_store(store, tmp_path):
    """Half of the update comes, and then nothing, until the store is closed."""
    ref = write_container(tmp_path / "p", {"w": torch.ones(1 << 16)}, {})
    half, ended = (tmp_path / "p").read_bytes()[: ref.size // 2], threading.Event()

    class Stalling(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(206)
            self.send_header("Content-Length", str(ref.size))
            self.end_headers()
            self.wfile.write(half)
            threading.Timer(0.1, store.close).start()
            ended.wait(LONG)

        def log_message(self, *_):
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stalling) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        url = f"http://127.0.0.1:{server.server_port}"
        store._remote.sign = lambda method, name, valid: f"{url}/{name}"
        store._remote.delete = lambda name: None
        coming = store.receive(granted(store, ref), ref, tmp_path / "got")
        try:
            with pytest.raises(PayloadError, match="stopped"):
                list(coming)
        finally:
            ended.set()
            server.shutdown()
