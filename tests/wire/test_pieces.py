"""Pieces of a payload: they outlive the process, and no more of it than they is in memory."""

from __future__ import annotations

import os
import tracemalloc

import pytest
import torch
from payloads import assert_arrived, fetch_ticket, never

from photon.container import container
from photon.container.container import (
    ContainerRef,
    copy_container,
    open_container,
    verify_container,
    write_container,
)
from photon.errors import StorageError
from photon.wire import object_store, signed_urls
from photon.wire.chunks import ChunkWriter, read_chunk
from photon.wire.object_store import ObjectStore
from photon.wire.signed_urls import upload


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
        fetch_ticket(
            store.locate(upload(path, ref, store.grant(1, ref.size), never)), tmp_path / "up"
        )

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
