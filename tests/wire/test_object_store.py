"""The object store: what goes up and down by signed URLs, and what is deleted when."""

from __future__ import annotations

import os
import urllib.error
import urllib.request

import pytest
from payloads import assert_arrived, fetch_ticket, never

from photon.errors import PayloadError
from photon.wire import object_store, signed_urls
from photon.wire.object_store import ObjectStore
from photon.wire.signed_urls import fetch, upload


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

    def spy(url, path, start, length, should_stop):
        sent.append(start)
        put_part(url, path, start, length, should_stop)

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
    ticket = upload(path, ref, grant, never)
    assert "urls" not in ticket
    fetch_ticket(store.locate(ticket), tmp_path / "got")
    assert_arrived(tmp_path / "got", ref)


def test_what_was_granted_is_deleted_when_taken_or_at_the_end(store, written, s3_server):
    path, ref = written
    store.offer(path, ref)
    taken, left = store.grant(1, ref.size), store.grant(1, ref.size)
    for grant in (taken, left):
        ticket = upload(path, ref, grant, never)
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
    upload(path, ref, store.grant(1, ref.size), never)
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
    upload(path, ref, following.grant(1, ref.size), never)
    following.offer(path, ref)
    assert len(following._remote.names("update")) == 4, "a round's own updates stay"
    fetch_ticket(ticket, tmp_path / "got")
    assert_arrived(tmp_path / "got", ref)


def test_updates_that_come_before_the_first_base_goes_out_stay(store, written, tmp_path):
    """The first parameters are made of the seed: nothing is offered until a node asks for them."""
    path, ref = written
    ticket = upload(path, ref, store.grant(1, ref.size), never)
    store.offer(path, ref)
    fetch_ticket(store.locate(ticket), tmp_path / "got")
    assert_arrived(tmp_path / "got", ref)


def test_a_node_cannot_point_elsewhere_or_send_more_than_granted(store, written, tmp_path):
    path, ref = written
    store.offer(path, ref)
    grant = store.grant(1, ref.size)
    ticket = upload(path, ref, grant, never)
    for key in ("base", "../../other", None, 3, grant["key"] + "x"):
        with pytest.raises(PayloadError, match="not asked to be put"):
            store.locate({**ticket, "key": key})
    with pytest.raises(PayloadError, match="more than granted"):
        store.locate({**ticket, "size": 1 << 40})
    with pytest.raises(PayloadError, match="were granted"):
        upload(path, ref, {**grant, "urls": grant["urls"][:1]}, never)
    for urls in (None, [], [3], ["file:///etc/passwd"], "http://x"):
        with pytest.raises(PayloadError, match="its ticket"):
            fetch({**ticket, "urls": urls, "part": 1 << 20}, ref, tmp_path / "got", never)


def test_something_else_in_the_store_is_refused(store, written, tmp_path):
    path, ref = written
    store.offer(path, ref)
    ticket = upload(path, ref, store.grant(1, ref.size), never)
    urls = store.locate(ticket)["urls"]
    store._remote.write(f"{ticket['key']}/00001", bytes(64 << 10))
    with pytest.raises(PayloadError, match=f"not the {ref.size} bytes of payload"):
        fetch_ticket({**store.locate(ticket), "urls": urls}, tmp_path / "got")
    assert [p.name for p in tmp_path.glob("got*")] == []


def test_a_store_that_is_not_there_is_named(s3, written):
    path, ref = written
    missing = ObjectStore("s3://no-such-bucket/x", "run")
    with pytest.raises(PayloadError, match=r"object store .*404.*\(NoSuchBucket\)"):
        missing.offer(path, ref)
