"""Verification, the order in blocks, prefetch: what reading promises."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from photon.cli.main import run
from photon.core.messages import StreamState
from photon.data.prepare import writer as writer_module
from photon.data.prepare.push import push
from photon.data.prepare.writer import ShardWriter
from photon.data.read import checksum
from photon.data.read import verify as verify_module
from photon.data.read.checksum import Checksum
from photon.data.read.order import EpochOrder
from photon.data.read.prefetch import prefetch
from photon.data.read.remote import RemoteFolder
from photon.data.read.shards import Rows
from photon.data.read.stream import JoinedStream, Stream
from photon.data.read.verify import verify
from photon.errors import DataError
from shards import write_shards


@pytest.mark.parametrize("seed", range(4))
def test_checksums_do_not_depend_on_the_pieces(monkeypatch, seed):
    monkeypatch.setattr(checksum, "BLOCK_BYTES", 100)
    draw = random.Random(seed)
    data = draw.randbytes(draw.choice([0, 1, 100, 731, 1000]))
    fed, rest = Checksum(), data
    while rest:
        size = draw.randint(1, 260)
        fed.update(rest[:size])
        rest = rest[size:]
    import hashlib

    assert fed.sha256 == hashlib.sha256(data).hexdigest()
    assert fed.blocks == [zlib.crc32(data[i : i + 100]) for i in range(0, len(data), 100)]
    assert fed.size == len(data)


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """Two folders of three shards of 1026 bytes, checked in blocks of 256."""
    monkeypatch.setattr(checksum, "BLOCK_BYTES", 256)
    monkeypatch.setattr(verify_module, "BLOCK_BYTES", 256)
    monkeypatch.setattr(writer_module, "SHARD_TOKENS", 512)
    for name in ("client_0/train", "validation"):
        tokens = np.random.default_rng(0).integers(0, 900, 3 * 512 + 1)
        write_shards(tmp_path / "data" / name, tokens, 16, {"tokenizer": "abc"}, 1000)
    return tmp_path / "data"


def test_sound_data_is_verified(data):
    seen: list[tuple[str, int]] = []
    folders = verify(data, lambda shard, size: seen.append((shard, size)))
    assert [folder.name for folder in folders] == ["client_0/train", "validation"]
    assert sum(size for _, size in seen) == 6 * 1026
    assert seen[0][0] == "client_0/train/shard_00000.bin"
    assert verify(data / "validation")[0].num_bytes == 3 * 1026


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:700] + bytes([d[700] ^ 8]) + d[701:], "damaged between offset 512 and 768"),
        (lambda d: d[:-1] + bytes([d[-1] ^ 1]), "damaged between offset 1,024 and 1,026"),
        (lambda d: d[:600], "ends at offset 600, the manifest says 1,026"),
        (lambda d: d[:512], "ends at offset 512, the manifest says 1,026"),
        (lambda d: d + b"more", "ends at offset 1,030, the manifest says 1,026"),
        (None, "shard is missing"),
    ],
)
def test_a_damaged_shard_is_named_with_the_offset(data, change, message, capsys):
    shard = data / "validation" / "shard_00001.bin"
    content = shard.read_bytes()
    shard.unlink()
    if change:
        shard.write_bytes(change(content))
    with pytest.raises(DataError, match=rf"^{shard}: {message}"):
        verify(data)
    assert run(["data", "verify", str(data)]) == 2
    assert message in capsys.readouterr().err
    shard.write_bytes(content)
    assert run(["data", "verify", str(data)]) == 0
    assert "all as written: 6,156 bytes" in capsys.readouterr().out


def test_damage_is_found_without_block_checksums(data):
    path = data / "validation" / "manifest.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["shards"]:
        del entry["block_crc32"]
    path.write_text(json.dumps(manifest))
    verify(data)
    shard = data / "validation" / "shard_00002.bin"
    shard.write_bytes(bytes([shard.read_bytes()[0] ^ 1]) + shard.read_bytes()[1:])
    with pytest.raises(DataError, match=r"shard_00002.bin: its SHA-256 is not the manifest's"):
        verify(data)


@pytest.mark.parametrize("place", [0, 255, 256, 700, 1024])
def test_a_changed_block_is_refused_by_the_rows_that_lie_in_it_alone(data, place):
    shard = data / "validation" / "shard_00001.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    start = place // 256 * 256
    for row in range(96):
        rows, first = Rows(data / "validation"), (row - 32) * 32
        if 32 <= row < 64 and first < start + 256 and first + 34 > start:
            stop = min(start + 256, 1026)
            with pytest.raises(DataError, match=f"^{shard}: was changed .* {start:,} and {stop:,}"):
                rows.read([0, row])
        else:
            rows.read([row])


def test_a_block_is_checked_once(data, monkeypatch):
    read: list[int] = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda f, n, at: read.append(at) or real(f, n, at))
    rows = Rows(data / "client_0" / "train")
    everything = rows.read(np.arange(96))
    assert sorted(read) == sorted([0, 256, 512, 768, 1024] * 3)
    assert (rows.read(np.arange(96)) == everything).all()
    assert len(read) == 15


def test_shards_without_block_checksums_are_checked_as_a_whole(data):
    path = data / "validation" / "manifest.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["shards"]:
        del entry["block_crc32"]
    path.write_text(json.dumps(manifest))
    Rows(path.parent).read([0, 40])
    shard = path.parent / "shard_00001.bin"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    Rows(path.parent).read([0])
    with pytest.raises(DataError, match="was changed between offset 0 and 1,026"):
        Rows(path.parent).read([40])


def test_tokens_that_the_model_does_not_know_are_refused(data):
    largest = int(Rows(data / "validation").read(np.arange(96)).max())
    Rows(data / "validation", vocab_size=largest + 1).read(np.arange(96))
    with pytest.raises(DataError, match=rf"shard_0000\d.bin: holds token {largest}, but the vocab"):
        Rows(data / "validation", vocab_size=largest).read(np.arange(96))


def test_nothing_to_verify_is_named(tmp_path, data):
    with pytest.raises(DataError, match="no prepared data here"):
        verify(tmp_path / "elsewhere")
    (data / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"made with tokenizer abc, but tokenizer.json is"):
        verify(data)


def test_a_manifest_that_contradicts_itself_is_named(data):
    path = data / "validation" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "rows": 95}))
    with pytest.raises(DataError, match=r"manifest.json: 95 rows in all, 96 in its shards"):
        Rows(path.parent)
    path.write_text(json.dumps({**manifest, "rows": 0, "shards": []}))
    with pytest.raises(DataError, match=r"manifest.json: 0 rows"):
        Rows(path.parent)
    path.write_text(json.dumps({**manifest, "sequence_length": 8}))
    with pytest.raises(DataError, match=r"1026 bytes are not 32 rows of 8 \+ 1 tokens"):
        Rows(path.parent)


@pytest.mark.parametrize("lost", ["client_1", "client_0/train/manifest.json", "tokenizer.json"])
def test_a_lost_part_is_missed(data_root, tmp_path, lost):
    copy, store = tmp_path / "copy", tmp_path / "store"
    shutil.copytree(data_root, copy)
    verify(copy)
    path = copy / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    name = lost.removesuffix("/manifest.json")
    with pytest.raises(DataError, match=rf"^{copy}/{name}.*: is missing.*, but belongs to {copy}/"):
        verify(copy)
    with pytest.raises(DataError, match=r": is missing.*, but belongs to "):
        push(copy, RemoteFolder(f"file://{store}", create=True))
    assert not list(store.iterdir()), "nothing is sent"


def test_a_part_is_told_from_the_whole(data_root, tmp_path, smoke, capsys):
    part = data_root / "client_1" / "train"
    for command in (["data", "show", str(part)], ["train", f"dataset.train.root_local={part}"]):
        assert run(command) == 2
        assert f"{part}: is a part of a data set; name the folder of" in capsys.readouterr().err
    whole = shutil.copytree(data_root, tmp_path / "whole")
    for text in ('{"format": 1}', '{"format": 1, "settings": [], "tokenizer": "a"}'):
        (whole / "manifest.json").write_text(text)
        assert run(["data", "show", str(whole)]) == 2
        assert "manifest.json: has no settings, so it is no" in capsys.readouterr().err
    (whole / "validation" / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(DataError, match=r"validation/manifest.json: has no dtype, so it is no man"):
        Rows(whole / "validation")


@pytest.mark.parametrize("block", [1, 7, 20, 40, 1000])
def test_an_order_in_blocks_is_a_permutation_of_whole_shards(block):
    sizes = [5, 9, 3, 3, 8, 1, 7]
    shard_of = np.repeat(np.arange(7), sizes)
    order = EpochOrder(sizes, seed=3, client=1, block_rows=block)
    epochs = []
    for epoch in range(2):
        rows: list[int] = []
        while len(rows) < 36:
            part = order.rows(epoch, len(rows), 36)
            assert len(set(shard_of[part])) == 1 or len(part) <= block
            touched = set(shard_of[part].tolist())
            assert len(part) == sum(sizes[shard] for shard in touched), "whole shards"
            rows += part.tolist()
        assert sorted(rows) == list(range(36))
        epochs.append(rows)
    assert epochs[0] != epochs[1]
    fresh = EpochOrder(sizes, seed=3, client=1, block_rows=block)
    for place in (35, 0, 17):
        assert fresh.rows(1, place, 1).tolist() == [epochs[1][place]]


def test_blocks_are_shuffled_inside_and_made_of_other_shards_each_epoch():
    order, shard_of = EpochOrder([8] * 12, seed=3, client=1, block_rows=24), np.repeat(range(12), 8)
    epochs = [[order.rows(e, at, 24) for at in range(0, 96, 24)] for e in range(8)]
    blocks = [block for epoch in epochs for block in epoch]
    jumps = np.mean([np.mean(np.abs(np.diff(shard_of[block])) > 0) for block in blocks])
    assert jumps == pytest.approx(1 - 7 / 23, abs=0.1), "as a shuffle of three shards has"
    grouped = {tuple(tuple(sorted(set(shard_of[b]))) for b in epoch) for epoch in epochs}
    assert len(grouped) == 8


def test_a_single_block_is_the_plain_permutation():
    from photon.core.seeds import derive_seed

    generator = np.random.Generator(np.random.Philox(derive_seed(9, "shuffle", 4, 2)))
    order = EpochOrder([30, 70], seed=9, client=4)
    np.testing.assert_array_equal(order.rows(2, 0, 100), generator.permutation(100))


@pytest.mark.parametrize("seed", range(6))
def test_exactly_once_over_crashes_and_a_changing_number_of_readers(data, seed):
    """Each step's batch is dealt out to a changing number of processes, which read ahead by threads
    of a changing depth; what they read but did not use before a crash is read again.
    """
    draw = random.Random(seed)
    rows = Rows(data / "validation")
    first = {tuple(row): number for number, row in enumerate(rows.read(np.arange(96)))}
    block = draw.choice([None, 30, 64])

    def process(rank: int, size: int, states, steps: int):
        stream = JoinedStream([Stream(rows, seed=5, client=2, block_rows=block)])
        share = lambda batch: batch[rank * len(batch) // size : (rank + 1) * len(batch) // size]  # noqa: E731
        with prefetch(stream, states, 12, share, depth=draw.randint(1, 5)) as batches:
            return [batches.next() for _ in range(steps)]

    states, seen = (StreamState(),), []
    while len(seen) < 3 * 96:
        steps = min(draw.randint(1, 9), (3 * 96 - len(seen)) // 12)
        size = draw.choice([1, 2, 3, 4, 6, 12])
        parts = [process(rank, size, states, steps) for rank in range(size)]
        kept = draw.randint(1, steps)  # the others are lost in a crash
        for step in range(kept):
            seen += [first[tuple(row)] for part in parts for row in part[step][0]]
            assert len({part[step][1] for part in parts}) == 1
        states = parts[0][kept - 1][1]
    for epoch in range(3):
        assert sorted(seen[epoch * 96 : (epoch + 1) * 96]) == list(range(96))
    assert states == (StreamState(epoch=3, cursor=0),)


class Scripted:
    """A stream of numbered batches; fails at one of them."""

    def __init__(self, fails_at: int = 10**9) -> None:
        self.fails_at, self.started = fails_at, 0

    def read(self, states, count):
        self.started += 1
        cursor = states[0].cursor
        if cursor == self.fails_at:
            raise DataError(f"batch {cursor}")
        return np.full(count, cursor), (StreamState(cursor=cursor + 1),)


def test_prefetch_gives_the_batches_in_order_with_their_positions():
    with prefetch(Scripted(), (StreamState(cursor=5),), 3, np.ndarray.tolist) as batches:
        for number in range(5, 40):
            assert batches.next() == ([number] * 3, (StreamState(cursor=number + 1),))


def test_prefetch_reads_ahead_no_further_than_its_depth():
    stream = Scripted()
    before = threading.active_count()
    with prefetch(stream, (StreamState(),), 3, np.ndarray.tolist, depth=3) as batches:
        batches.next()
        deadline = time.monotonic() + 5
        while stream.started < 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        assert stream.started == 4
    assert threading.active_count() == before


def test_an_error_of_the_stream_comes_where_its_batch_would():
    with prefetch(Scripted(fails_at=2), (StreamState(),), 1, np.ndarray.tolist) as batches:
        assert [batches.next()[0] for _ in range(2)] == [[0], [1]]
        for _ in range(2):
            with pytest.raises(DataError, match="batch 2"):
                batches.next()


def test_prefetch_ends_with_its_block_whatever_happens():
    before = threading.active_count()
    with (
        pytest.raises(KeyError),
        prefetch(Scripted(), (StreamState(),), 1, np.ndarray.tolist, depth=1),
    ):
        raise KeyError
    assert threading.active_count() == before


@pytest.mark.parametrize("length", [1, 5, 8, 12, 16, 40])
def test_a_stream_is_read_in_rows_of_any_length(tmp_path, monkeypatch, length):
    monkeypatch.setattr(writer_module, "SHARD_TOKENS", 48)  # six rows of 8 a shard
    tokens = np.random.default_rng(0).integers(0, 300, 8 * 15 + 4)
    write_shards(tmp_path / "d", tokens, 8, {})
    rows = Rows(tmp_path / "d", sequence_length=length)
    expected = [
        tokens[i : i + length + 1]
        for first, size in ((0, 48), (48, 48), (96, 24))
        for i in range(first, first + size - length + 1, length)
    ]
    assert len(rows) == sum(rows.shard_rows) == len(expected)
    np.testing.assert_array_equal(rows.read(np.arange(len(rows))), expected)


def test_rows_that_cannot_be_cut_are_named(tmp_path):
    write_shards(tmp_path / "d", np.arange(100), 8, {})
    with pytest.raises(DataError, match="too little text for one row of 200 tokens"):
        Rows(tmp_path / "d", sequence_length=200)
    writer = ShardWriter(tmp_path / "own", 8, 100, wrap=False)
    writer.append(np.arange(90))
    writer.finish({})
    assert len(Rows(tmp_path / "own", sequence_length=8)) == 11
    with pytest.raises(DataError, match="its rows of 8 end with the documents and cannot be cut"):
        Rows(tmp_path / "own", sequence_length=4)
