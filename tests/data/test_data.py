"""Documents, partitions, shards, streams."""

from __future__ import annotations

import json
import os
import random
import resource

import numpy as np
import pytest

from photon.config import load_config
from photon.core.messages import StreamState
from photon.data.manifest import read_manifest
from photon.data.prepare import corpus, writer
from photon.data.prepare import embedded as prepare
from photon.data.prepare.corpus import Document, standard_library
from photon.data.prepare.embedded import prepare_embedded
from photon.data.prepare.partition import Rule, partition_documents
from photon.data.read.shards import Rows
from photon.data.read.stream import JoinedStream, Stream
from photon.data.tokenizer import load_tokenizer, separator_id, train_tokenizer
from photon.errors import DataError, StorageError
from shards import write_shards


def documents(count: int, sources: int = 7) -> list[Document]:
    sizes = random.Random(0)
    return [
        Document(f"d{i}", f"s{i % sources}", f"text {i} " * sizes.randint(1, 60))
        for i in range(count)
    ]


def split(docs, clients, by):
    return partition_documents(docs, Rule(by, clients, seed=3), validation_fraction=0.05)


@pytest.mark.parametrize("by", ["iid", "source"])
@pytest.mark.parametrize("clients", [1, 3, 8])
def test_every_document_lands_in_exactly_one_place(by, clients):
    docs = documents(200)
    part = split(docs, clients, by)
    places = [*part.validation]
    for group in (*part.train, *part.held_out):
        places += group
    assert sorted(places) == list(range(200))
    assert all(part.train)
    assert all(part.held_out)


def test_the_validation_set_is_the_same_for_any_federation():
    docs = documents(200)
    assert len({split(docs, c, by).validation for c in (2, 8) for by in ("iid", "source")}) == 1


def test_by_source_differs_between_clients_and_iid_does_not():
    docs = documents(400, sources=16)

    def sources_per_client(by: str) -> float:
        parts = split(docs, 8, by).train
        return float(np.mean([len({docs[i].source for i in part}) for part in parts]))

    assert sources_per_client("source") <= 4
    assert sources_per_client("iid") >= 14
    sizes = [sum(len(docs[i].text) for i in part) for part in split(docs, 8, "source").train]
    assert max(sizes) < 1.6 * min(sizes)


def test_too_few_documents_for_the_clients():
    uneven = [
        Document(f"d{i}", f"s{i % 7}", "x" * (10_000 if i % 9 == 0 else 10)) for i in range(4 * 9)
    ]
    with pytest.raises(DataError, match=r"too small for 8 clients: client . would have 1 of"):
        split(uneven[:24], 8, "source")
    for clients in (8, 10**9):  # before a part is made for each
        with pytest.raises(DataError, match=f"too small for {clients} clients: each needs 2 of"):
            split(documents(12), clients, "iid")
    with pytest.raises(DataError, match="too small for 8 clients"):
        split([Document(f"d{i}", "one", "x") for i in range(8)], 8, "source")


def test_the_standard_library_is_text_with_packages_as_sources():
    found = standard_library(2_000_000)
    assert sum(len(d.text.encode()) for d in found) <= 2_000_000
    assert len({d.source for d in found}) > 5
    assert found == standard_library(2_000_000)


def test_a_python_without_sources_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(DataError, match="no Python source"):
        standard_library(1000)


def test_tokenizer_gives_any_text_back():
    texts = [d.text for d in standard_library(300_000)]
    tokenizer = train_tokenizer(texts, 400)
    for text in (*texts[:5], "naïve ☃ \x00 \t\r\n 漢字"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert separator_id(tokenizer) == 0


def test_a_tokenizer_larger_than_its_text_is_refused():
    with pytest.raises(DataError, match="yields a vocabulary of"):
        train_tokenizer(["too little text"], 2048)


def test_a_damaged_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer\.json: cannot read"):
        load_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("per_shard", [1, 3, 1000])
@pytest.mark.parametrize("top", [300, 70_000])
def test_rows_are_the_token_stream(tmp_path, monkeypatch, per_shard, top):
    monkeypatch.setattr(writer, "SHARD_TOKENS", per_shard * 16)
    tokens = np.random.default_rng(0).integers(0, top, 16 * 10 + 8)
    tokens[0] = top - 1
    manifest = write_shards(tmp_path / "d", tokens, 16, {})
    rows = Rows(tmp_path / "d")
    assert len(rows) == 10
    assert manifest["tokens"] + manifest["remainder_tokens"] + 1 == len(tokens)
    read = rows.read(np.arange(10))
    for i in range(10):
        np.testing.assert_array_equal(read[i], tokens[i * 16 : (i + 1) * 16 + 1])
    np.testing.assert_array_equal(rows.read([7, 0, 9]), read[[7, 0, 9]])


def test_damaged_data_is_named(tmp_path):
    folder = tmp_path / "d"
    with pytest.raises(DataError, match=r"no prepared data here; run `photon prepare`"):
        Rows(folder)
    write_shards(folder, np.arange(100), 8, {})
    shard = folder / "shard_00000.bin"
    data = shard.read_bytes()
    shard.write_bytes(data[:-2])
    with pytest.raises(DataError, match=r"shard_00000.bin: shard has \d+ bytes, the manifest says"):
        Rows(folder)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard_00000.bin: shard is missing"):
        Rows(folder)
    with pytest.raises(DataError, match=r"manifest.json: no prepared data here"):
        Rows(folder / "manifest.json")
    (folder / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest.json: unreadable manifest"):
        Rows(folder)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match=r"manifest.json: not a manifest"):
        Rows(folder)


def test_text_below_one_row_is_refused(tmp_path):
    with pytest.raises(DataError, match="do not fill one row of 8"):
        write_shards(tmp_path / "d", np.arange(8), 8, {})


@pytest.fixture
def rows(tmp_path) -> Rows:
    write_shards(tmp_path / "rows", np.arange(8 * 23 + 1), 8, {})
    return Rows(tmp_path / "rows")


def first_tokens(batch: np.ndarray) -> list[int]:
    return [int(row[0]) // 8 for row in batch]


@pytest.mark.parametrize("seed", range(5))
def test_no_row_is_repeated_or_skipped_whatever_the_batches(rows, seed):
    """Three epochs read in random pieces, the stream rebuilt at random: each row once an epoch."""
    draw = random.Random(seed)
    stream, state, seen = Stream(rows, seed=5, client=2), StreamState(), []
    while len(seen) < 3 * 23:
        batch, state = stream.read(state, min(draw.randint(1, 30), 3 * 23 - len(seen)))
        seen += first_tokens(batch)
        if draw.random() < 0.3:
            stream = Stream(rows, seed=5, client=2)
    epochs = [seen[i : i + 23] for i in range(0, 69, 23)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert state == StreamState(epoch=3, cursor=0)


def test_order_is_an_address(rows):
    def order(seed, client):
        return first_tokens(Stream(rows, seed=seed, client=client).read(StreamState(), 23)[0])

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1) != order(2, 1)
    assert order(None, 0) == list(range(23))


def test_joined_batches_are_the_clients_batches_joined(rows):
    streams = [Stream(rows, seed=5, client=c) for c in range(3)]
    joined = JoinedStream(streams)
    states = joined.start()
    own = [StreamState()] * 3
    for _ in range(9):
        batch, states = joined.read(states, 12)
        parts = []
        for c in range(3):
            part, own[c] = streams[c].read(own[c], 4)
            parts.append(part)
        np.testing.assert_array_equal(batch, np.concatenate(parts))
        assert list(states) == own
    uneven, after = joined.read(joined.start(), 5)
    assert [state.cursor for state in after] == [2, 2, 1]
    assert len(uneven) == 5
    with pytest.raises(DataError):
        JoinedStream([])


@pytest.mark.parametrize("batch", [2, 5, 7])
def test_joined_batches_read_all_clients_alike_though_they_do_not_come_out_even(rows, batch):
    joined = JoinedStream([Stream(rows, seed=5, client=c) for c in range(4)])
    states = joined.start()
    for number in range(1, 40):
        told = joined.describe(states, batch)
        read, states = joined.read(states, batch)
        assert len(read) == batch
        assert told.count("client") == min(4, batch)
        places = [state.epoch * len(rows) + state.cursor for state in states]
        assert sum(places) == number * batch
        assert max(places) - min(places) <= 1


def settings(*overrides):
    return load_config(["recipe=smoke", *overrides]).data.embedded


def test_prepared_counts_add_up(data_root):
    manifest = read_manifest(data_root)
    names = ["validation", *(f"client_{c}/{p}" for c in (0, 1) for p in ("train", "validation"))]
    parts = {name: read_manifest(data_root / name) for name in names}
    for part in parts.values():
        assert part["tokens"] + part["remainder_tokens"] + 1 == part["text_tokens"]
        assert sum(part["unigram"]) == part["text_tokens"]
    text = standard_library(settings().max_bytes)
    assert sum(part["documents"] for part in parts.values()) == len(text)
    assert sum(p["text_bytes"] for p in parts.values()) == sum(len(d.text.encode()) for d in text)
    assert manifest["train_tokens"] == sum(parts[f"client_{c}/train"]["tokens"] for c in (0, 1))


def test_documents_are_separated_by_exactly_one_token(data_root):
    part = read_manifest(data_root / "client_0" / "train")
    assert part["unigram"][0] == part["documents"]


def test_preparing_twice_is_a_no_op_and_gives_the_same_bytes(data_root, tmp_path):
    again = prepare_embedded(tmp_path / "again", settings(), 2, 32)
    assert again["digest"] == read_manifest(data_root)["digest"]
    before = sorted((p, p.stat().st_mtime_ns) for p in data_root.rglob("*"))
    prepare_embedded(data_root, settings(), 2, 32)
    assert sorted((p, p.stat().st_mtime_ns) for p in data_root.rglob("*")) == before


def test_a_folder_with_other_content_is_not_touched(data_root, tmp_path):
    with pytest.raises(DataError, match="prepared with vocab_size=300, asked for vocab_size=400"):
        prepare_embedded(data_root, settings("dataset.embedded.vocab_size=400"), 2, 32)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty and holds no prepared data"):
        prepare_embedded(tmp_path, settings(), 2, 32)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_corpus_too_small_for_its_clients(tmp_path):
    with pytest.raises(DataError, match="too small for 8 clients"):
        prepare_embedded(tmp_path / "d", settings("dataset.embedded.max_bytes=90000"), 8, 32)
    assert not (tmp_path / "d").exists()


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(StorageError, match="cannot write"):
            prepare_embedded(tmp_path / "d", settings(), 2, 32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []
    assert json.loads(json.dumps(prepare_embedded(tmp_path / "d", settings(), 2, 32)))["digest"]


def test_validation_text_is_never_trained_on(monkeypatch, tmp_path):
    """Neither the model's rows nor the tokenizer's training text contain held-out documents."""
    docs = [
        Document(f"d{i}", "s", f"unique{i:03d} " + "def f(x): return x\n" * 40) for i in range(60)
    ]
    monkeypatch.setattr(prepare, "standard_library", lambda max_bytes: docs)
    seen: list[str] = []
    train = prepare.train_tokenizer
    monkeypatch.setattr(
        prepare, "train_tokenizer", lambda texts, size: train(seen.extend(texts) or seen, size)
    )
    prepare_embedded(tmp_path / "d", settings(), 2, 8)
    tokenizer = load_tokenizer(tmp_path / "d" / "tokenizer.json")

    def text_of(name):
        rows = Rows(tmp_path / "d" / name)
        stream = [int(rows.read([0])[0, 0]), *rows.read(np.arange(len(rows)))[:, 1:].flatten()]
        return tokenizer.decode(stream, skip_special_tokens=False)

    import re

    places = {
        name: set(re.findall(r"unique(\d{3})", text_of(name)))
        for name in ("validation", "client_0/train", "client_0/validation", "client_1/train")
    }
    training = places["client_0/train"] | places["client_1/train"]
    assert not training & (places["validation"] | places["client_0/validation"])
    assert not places["client_0/train"] & places["client_1/train"]
    held_back = places["validation"] | places["client_0/validation"]
    assert not held_back & set(re.findall(r"unique(\d{3})", " ".join(seen)))
    assert corpus.standard_library is not prepare.standard_library
