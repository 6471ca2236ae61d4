"""`photon prepare` on any text: exact counts, nothing lost, separators where they belong."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
from made_texts import sentence, write_lines
from prepared_parts import bytes_of, parts_of

from photon.data.prepare import routing
from photon.data.prepare.part import read_digests
from photon.data.prepare.routing import text_digest
from photon.data.prepare.summary import summarise
from photon.data.read.shards import Rows
from photon.data.read.verify import verify
from photon.data.tokenizer import load_tokenizer
from photon.errors import DataError


def documents_in(root: Path, name: str, tokenizer: str) -> list[str]:
    """Whole documents of a folder, decoded from its rows."""
    rows = Rows(root / name).read(np.arange(len(Rows(root / name))))
    stream = [int(rows[0, 0]), *rows[:, 1:].flatten().tolist()]
    text = load_tokenizer(Path(tokenizer)).decode(stream, skip_special_tokens=False)
    return text.split("<|endoftext|>")[:-1]


def texts_of(folder: Path, kind: str) -> list[str]:
    found = []
    for path in sorted(folder.glob(f"*{kind}*")):
        with gzip.open(path, "rt") as file:
            found += [json.loads(line)["text"] for line in file]
    return found


def test_every_document_is_somewhere_once_and_the_counts_add_up(prepare, c4, tmp_path, tokenizer):
    manifest = prepare(c4)
    parts, totals = parts_of(tmp_path / "out"), manifest["totals"]
    assert totals["documents"] == 240
    assert totals["written"] == sum(part["documents"] for part in parts.values()) == 240
    assert totals["text_tokens"] == sum(part["text_tokens"] for part in parts.values())
    assert totals["text_tokens"] == (
        totals["tokens"] + totals["first_tokens"] + totals["remainder_tokens"]
    )
    assert totals["text_bytes"] == sum(
        len(text.encode()) for kind in ("train", "validation") for text in texts_of(c4, kind)
    )
    for part in parts.values():
        assert sum(part["unigram"]) == part["text_tokens"]
        assert part["unigram"][0] == part["documents"]  # exactly one separator behind each
    found = {name: documents_in(tmp_path / "out", name, tokenizer) for name in parts}
    train = texts_of(c4, "train")
    for name, texts in found.items():
        assert set(texts) <= set(train if name.endswith("/train") else texts_of(c4, "validation"))
        assert len(texts) >= parts[name]["documents"] - 1
    everything = [text for texts in found.values() for text in texts]
    assert len(everything) == len(set(everything))
    assert found["client_0/train"] != [t for t in train if t in found["client_0/train"]]  # shuffled


def test_document_hashes_are_kept(prepare, c4, tmp_path):
    prepare(c4)
    kept = np.concatenate([read_digests(tmp_path / "out" / n) for n in parts_of(tmp_path / "out")])
    expected = [text_digest(t) for kind in ("train", "validation") for t in texts_of(c4, kind)]
    assert sorted(kept.tolist()) == sorted(expected)


def test_a_summary_needs_the_frequencies_of_tokens(prepare, c4, tmp_path):
    prepare(c4)
    path = tmp_path / "out/client_1/train/manifest.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({key: whole[key] for key in whole if key != "unigram"}))
    with pytest.raises(DataError, match=r"client_1/train/manifest.json: has no unigram"):
        summarise(tmp_path / "out")


def test_hashes_that_are_damaged_are_found_and_not_counted_with(prepare, c4, tmp_path):
    prepare(c4, clients=2)
    out = tmp_path / "out"
    assert [client.overlap for client in summarise(out)] == [0, 0]
    hashes = out / "client_1/validation/documents.bin"
    whole = hashes.read_bytes()
    hashes.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match=r"documents.bin: its SHA-256 is not the manifest's"):
        verify(out)
    hashes.write_bytes(whole[:-8])
    with pytest.raises(DataError, match=r"documents.bin: ends at offset"):
        verify(out)
    assert [client.overlap for client in summarise(out)] == [None, None]
    hashes.unlink()  # as in a copy that comes from a store
    verify(out)
    assert [client.overlap for client in summarise(out)] == [None, None]


def test_empty_documents_and_copies_are_counted(prepare, tmp_path):
    draw = random.Random(2)
    texts = [sentence(draw) for _ in range(80)]
    source = write_lines(tmp_path / "a.jsonl", [*texts, "", "  \n", "", *texts[:5]])
    totals = prepare(source, validation_fraction=0.1, shuffle_documents=1000)["totals"]
    assert (totals["empty"], totals["copies"], totals["documents"]) == (3, 5, 83)
    assert totals["documents"] + totals["stretches"] == totals["written"] + 3
    totals = prepare(source, "stream", validation_fraction=0.2)["totals"]  # four blocks
    assert (totals["empty"], totals["copies"], totals["written"]) == (3, 0, 85)


def test_text_files_beside_records_are_read_too(prepare, tmp_path):
    draw = random.Random(7)
    texts = [f"{i} {sentence(draw)}" for i in range(60)]
    folder = tmp_path / "mixed"
    folder.mkdir()
    write_lines(folder / "a.jsonl", texts[:20])
    for i, text in enumerate(texts[20:]):
        (folder / f"{i}.TXT").write_text(text)
    (folder / "notes.pdf").write_bytes(b"")
    for shuffled in (1000, 25):  # all known, and as a stream
        manifest = prepare(folder, f"out{shuffled}", validation_fraction=0.2,
                           shuffle_documents=shuffled)  # fmt: skip
        assert manifest["totals"]["text_bytes"] == sum(map(len, texts))
        assert manifest["left_out"] == {"of another kind": {"files": 1, "names": ["notes.pdf"]}}


def test_equal_texts_of_a_stream_share_a_place(prepare, tmp_path):
    draw = random.Random(3)
    texts = [sentence(draw) for _ in range(60)] * 3
    prepare(write_lines(tmp_path / "a.jsonl", texts), validation_fraction=0.2)
    places = [
        set(read_digests(tmp_path / "out" / name).tolist()) for name in parts_of(tmp_path / "out")
    ]
    assert sum(map(len, places)) == len(set.union(*places)) == 60


def test_one_document_longer_than_everything(prepare, tmp_path):
    draw = random.Random(4)
    texts = [sentence(draw) for _ in range(80)]
    texts[40] = " ".join(sentence(draw) for _ in range(3000))
    manifest = prepare(write_lines(tmp_path / "a.jsonl", texts), validation_fraction=0.2)
    totals = manifest["totals"]
    assert (totals["documents"], totals["stretches"], totals["written"]) == (80, 2, 82)
    assert totals["text_bytes"] == sum(map(len, texts))


def test_without_wrap_rows_stay_within_a_document(prepare, c4, tmp_path, tokenizer):
    prepare(c4, wrap=False)
    tokens = load_tokenizer(Path(tokenizer))
    known = {(*tokens.encode(t).ids, 0) for t in texts_of(c4, "train")}
    expected = {d[i : i + 17] for d in known for i in range(0, len(d) - 16, 16)}
    rows = Rows(tmp_path / "out/client_0/train")
    found = {tuple(row) for row in rows.read(np.arange(len(rows))).tolist()}
    assert found <= expected
    assert len(found) > 100


def test_separators_are_not_doubled(prepare, c4, tmp_path):
    prepare(c4, "same", bos_text="<|endoftext|>", eos_text="<|endoftext|>")
    prepare(c4, "plain")
    name = "client_0/train/shard_00000.bin"
    assert bytes_of(tmp_path / "same")[name] == bytes_of(tmp_path / "plain")[name]
    with pytest.raises(DataError, match=r"has no token <s>$"):
        prepare(c4, "other", bos_text="<s>")


def test_text_that_spells_the_separator_is_text(prepare, tmp_path):
    draw = random.Random(5)
    texts = [f"{sentence(draw)} <|endoftext|> {sentence(draw)}" for _ in range(60)]
    prepare(write_lines(tmp_path / "a.jsonl", texts), shuffle_documents=1000)
    for part in parts_of(tmp_path / "out").values():
        assert part["unigram"][0] == part["documents"]


def test_blocks_end_where_memory_does(c4, prepare, tmp_path, monkeypatch):
    prepare(c4, "whole", shuffle_documents=7)
    monkeypatch.setattr(routing, "BLOCK_CHARACTERS", 1000)
    manifest = prepare(c4, "blocks", shuffle_documents=10_000)
    assert manifest["totals"]["written"] == 240
