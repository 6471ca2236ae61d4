"""Splits that are cut to their size: what each client has of them, and what is counted."""

from __future__ import annotations

import random

import numpy as np
import pytest
from made_texts import sentence, write_c4, write_lines
from prepared_parts import parts_of, text_of

from photon.data.prepare import pipeline, routing
from photon.data.prepare.corpus import Document
from photon.data.prepare.writer import ShardWriter


def test_splits_are_cut_to_their_size_and_shared_out(prepare, c4, tmp_path, monkeypatch):
    from photon.data.prepare import splits

    small = splits.Split("train_small", "train", 2)  # of 2048 tokens: 256 rows of 16
    few = splits.Split("val_xxsmall", "validation", 1)
    monkeypatch.setitem(splits.SPLITS, "train_small", small)
    monkeypatch.setitem(splits.SPLITS, "val_xxsmall", few)
    write_c4(c4, documents=120)
    manifest = prepare(c4, clients=3, splits=["train_small", "val_xxsmall"])
    rows = {name: part["rows"] for name, part in parts_of(tmp_path / "out").items()}
    assert [rows[f"client_{c}/train"] for c in range(3)] == [86, 85, 85]
    assert rows["validation"] == 128
    assert [rows[f"client_{c}/validation"] for c in range(3)] == [43, 43, 42]
    totals = manifest["totals"]
    assert totals["documents"] == totals["written"] + totals["skipped"] < 480
    assert totals["remainder_tokens"] == 0
    assert totals["cut_tokens"] > 0


def test_a_document_that_is_cut_counts_with_the_text_that_is_kept(prepare, tmp_path, tokenizer,
                                                                 monkeypatch):  # fmt: skip
    from photon.data.prepare import splits

    few = splits.Split("val_xxsmall", "validation", 1)  # of 2048 tokens
    monkeypatch.setitem(splits.SPLITS, "val_xxsmall", few)
    draw = random.Random(3)
    (tmp_path / "s").mkdir()
    write_lines(tmp_path / "s" / "train.jsonl", [sentence(draw) for _ in range(60)])
    long = ["x y z " * 4000 + " ".join(sentence(draw) for _ in range(900)) for _ in range(9)]
    write_lines(tmp_path / "s" / "validation.jsonl", long)
    totals = prepare(tmp_path / "s", splits=["train", "val_xxsmall"])["totals"]
    assert totals["cut_tokens"] > 0
    for name, part in parts_of(tmp_path / "out").items():
        text = text_of(tmp_path / "out", name, tokenizer)
        assert part["text_bytes"] == pytest.approx(len(text.encode()), rel=0.05), name
        if "validation" in name:
            assert part["text_bytes"] == pytest.approx(len(text.encode()), abs=2), name


def test_an_unequal_partition_is_cut_as_a_whole(prepare, c4, tmp_path, monkeypatch):
    from photon.data.prepare import splits

    small = splits.Split("train_small", "train", 2)
    monkeypatch.setitem(splits.SPLITS, "train_small", small)
    keys = {"splits": ["train_small"], "partition": "dirichlet", "alpha": 1.0}
    prepare(c4, source_column="url", **keys)
    rows = {name: part["rows"] for name, part in parts_of(tmp_path / "out").items()}
    assert sum(count for name, count in rows.items() if name.endswith("/train")) == 256


@pytest.mark.parametrize("clients", [2, 40])
def test_a_document_costs_no_look_at_every_client(tmp_path, monkeypatch, clients):
    """Of a set that is cut as a whole: what all have is counted on, not summed up each time."""
    spec = pipeline.DatasetSpec(clients=range(clients), sequence_length=4, most_train_rows=99)
    making = pipeline.Pipeline(tmp_path, spec, 300, lambda ends: {})
    looks, rows = [], ShardWriter.rows
    counted = property(lambda self: looks.append(self) or rows.fget(self))  # pyright: ignore
    monkeypatch.setattr(ShardWriter, "rows", counted)
    document = routing.Routed(Document("d", "s", "text"), 1, "client_1/train", (1,))
    making._take(document, np.arange(9), None)  # pyright: ignore[reportArgumentType]
    assert making._room("client_1/train") == 99 - 2
    assert len(set(map(id, looks))) == 1
    making.save()
    making.close()
    going_on = pipeline.Pipeline(tmp_path, spec, 300, lambda ends: {})
    assert going_on._room("client_0/train") == 99 - 2
    going_on.close()
