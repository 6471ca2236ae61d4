"""ShardWriter: the same bytes whatever the pieces and the interruptions."""

from __future__ import annotations

import random

import numpy as np
import pytest

from photon.data.prepare.writer import ShardWriter, token_dtype
from photon.data.read.shards import Rows
from photon.errors import DataError
from shards import write_shards


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def documents(seed: int, count: int = 60) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 500, draw.integers(1, 90)) for _ in range(count)]


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_an_interrupted_writer_ends_with_the_same_bytes(tmp_path, wrap, seed):
    docs, draw = documents(seed), random.Random(seed)
    options = {"rows_per_shard": 5, "wrap": wrap}
    whole = ShardWriter(tmp_path / "whole", 16, 500, **options)
    for doc in docs:
        whole.append(doc)
    whole.finish({"documents": len(docs)})

    done, position = 0, None
    while done < len(docs):
        writer = ShardWriter(tmp_path / "cut", 16, 500, position=position, **options)
        steps = draw.randint(1, 20)
        for doc in docs[done : done + steps]:
            writer.append(doc)
        position = writer.position()
        done += steps
        for doc in docs[done : done + draw.randint(0, 20)]:  # never recorded: must vanish
            writer.append(doc)
        writer.position()
        writer.close()
    ShardWriter(tmp_path / "cut", 16, 500, position=position, **options).finish(
        {"documents": len(docs)}
    )
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


@pytest.mark.parametrize("size", [16 * 5 + 1, 16 * 5 + 2, 16 * 10 + 1, 16 * 10, 17, 16 * 12])
def test_shard_boundaries_share_one_token(tmp_path, size):
    tokens = np.arange(size)
    writer = ShardWriter(tmp_path / "d", 16, 500, rows_per_shard=5)
    for token in tokens:
        writer.append(np.array([token]))
        assert writer.rows == (token // 16)
    manifest = writer.finish({})
    assert [s["rows"] for s in manifest["shards"]] == [
        min(5, manifest["rows"] - i) for i in range(0, manifest["rows"], 5)
    ]
    rows = Rows(tmp_path / "d")
    assert len(rows) == (size - 1) // 16
    for i in range(len(rows)):
        np.testing.assert_array_equal(rows.read([i])[0], tokens[16 * i : 16 * i + 17])


def test_without_wrap_no_row_crosses_a_document(tmp_path):
    docs = documents(7)
    writer = ShardWriter(tmp_path / "d", 16, 500, rows_per_shard=4, wrap=False)
    for doc in docs:
        writer.append(doc)
    manifest = writer.finish({})
    expected = [d[i : i + 17] for d in docs for i in range(0, len(d) - 16, 16)]
    np.testing.assert_array_equal(
        Rows(tmp_path / "d").read(np.arange(manifest["rows"])), np.stack(expected)
    )
    assert manifest["text_tokens"] == sum(map(len, docs))
    assert manifest["first_tokens"] == len(docs)
    assert (
        manifest["tokens"] + manifest["remainder_tokens"] + manifest["first_tokens"]
        == manifest["text_tokens"]
    )


@pytest.mark.parametrize("wrap", [True, False])
def test_every_token_is_counted(tmp_path, wrap):
    docs = documents(3)
    writer = ShardWriter(tmp_path / "d", 16, 600, wrap=wrap)
    for doc in docs:
        writer.append(doc)
    manifest = writer.finish({})
    assert manifest["unigram"] == np.bincount(np.concatenate(docs), minlength=600).tolist()


def test_the_vocabulary_decides_the_width(tmp_path):
    assert token_dtype(1 << 16) == np.dtype("<u2")
    assert token_dtype((1 << 16) + 1) == np.dtype("<u4")
    manifest = write_shards(tmp_path / "d", np.arange(100), 8, {}, vocab_size=70_000)
    assert manifest["dtype"] == "<u4"


def test_a_token_outside_the_vocabulary_is_refused(tmp_path):
    writer = ShardWriter(tmp_path / "d", 8, 100)
    writer.append(np.array([100]))
    with pytest.raises(DataError, match="token 100 is outside the vocabulary of 100"):
        writer.position()


def test_a_shard_shorter_than_recorded_is_named(tmp_path):
    writer = ShardWriter(tmp_path / "d", 8, 100)
    writer.append(np.arange(50))
    position = writer.position()
    writer.close()
    (tmp_path / "d" / "shard_00000.bin").write_bytes(b"short")
    with pytest.raises(DataError, match=r"shard_00000\.bin: is shorter than the recorded 100"):
        ShardWriter(tmp_path / "d", 8, 100, position=position)
