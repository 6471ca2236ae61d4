"""What `photon prepare` holds out for validation: of whom, how much, never trained on."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from made_texts import sentence, write_lines
from prepared_parts import parts_of, text_of

from photon.data.manifest import read_manifest
from photon.data.prepare.part import read_digests
from photon.data.prepare.routing import text_digest
from photon.data.prepare.summary import held_out_lines


def held_out_shares(root: Path) -> dict[str, float]:
    """Share of validation in the tokens of each client, and in those of all."""
    tokens = {name: part["text_tokens"] for name, part in parts_of(root).items()}
    clients = sorted({name.split("/")[0] for name in tokens if "/" in name})
    shares = {"all": tokens["validation"] / sum(tokens.values())}
    for client in clients:
        own = tokens[f"{client}/validation"]
        shares[client] = own / (own + tokens[f"{client}/train"])
    return shares


@pytest.mark.parametrize("partition", ["iid", "source", "size", "dirichlet"])
def test_one_text_file_is_enough_for_several_clients(prepare, tmp_path, tokenizer, partition):
    draw = random.Random(8)
    text = "\n\n".join(f"{i:05d} {sentence(draw)}" for i in range(1500))
    (tmp_path / "play.txt").write_text(text)
    keys = {"partition": partition, "size_exponent": 0.5, "alpha": 5.0}
    totals = prepare(tmp_path / "play.txt", clients=4, **keys)["totals"]
    assert (totals["documents"], totals["stretches"]) == (1, 8)
    assert totals["text_bytes"] == len(text)
    assert held_out_shares(tmp_path / "out") == pytest.approx(
        dict.fromkeys(["all", *(f"client_{c}" for c in range(4))], 0.05), rel=0.2
    )
    marks = set(range(1500))
    for name in parts_of(tmp_path / "out"):
        found = text_of(tmp_path / "out", name, tokenizer)
        numbers = [int(number) for number in re.findall(r"\b\d{5}\b", found)]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # contiguous
        assert found.startswith(f"{numbers[0]:05d} ")  # cut at a paragraph
        assert marks >= set(numbers)
        marks -= set(numbers)  # in no other part
    assert len(marks) <= 9  # in the tails of the last rows


def test_an_author_of_one_book_can_be_a_client(prepare, tmp_path):
    draw = random.Random(9)
    for author in range(20):
        folder = tmp_path / "books" / f"author{author:02d}"
        folder.mkdir(parents=True)
        lines = [sentence(draw) for _ in range(int(draw.lognormvariate(6, 1)) + 40)]
        (folder / "book.md").write_text("\n".join(lines))
    prepare(tmp_path / "books", clients=20, partition="source")
    shares = held_out_shares(tmp_path / "out")
    assert shares == pytest.approx(dict.fromkeys(shares, 0.05), rel=0.2)
    for client in range(20):
        for part in ("train", "validation"):
            manifest = read_manifest(tmp_path / "out" / f"client_{client}/{part}")
            assert manifest["sources"] == [f"author{client:02d}"]
    common, each = held_out_lines(tmp_path / "out")
    assert re.match(
        r"common: [\d,]+ tokens, [45]\.\d % of all, from author00, author01, author02 and 17 more",
        common,
    )
    assert re.match(r"clients 0-19: 4\.\d to 5\.\d % of each one's tokens", each)


def test_rows_without_a_source_are_shown_as_such(prepare, tmp_path):
    draw, rows = random.Random(9), []
    for number in range(60):
        rows.append({"text": sentence(draw) * 3, "from": [None, "de"][number % 2]})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(tmp_path / "a.jsonl", source_column="from")
    assert "from (none), de" in held_out_lines(tmp_path / "out")[0]


def test_what_was_held_out_of_whom_is_told(prepare, tmp_path):
    draw = random.Random(11)
    (tmp_path / "texts").mkdir()
    for i in range(6):  # the common set takes one whole, and with it all there is of its source
        (tmp_path / "texts" / f"text{i}.txt").write_text(sentence(draw) * 6)
    prepare(tmp_path / "texts", validation_fraction=0.17)
    lines = held_out_lines(tmp_path / "out")
    assert [line.split(":")[0] for line in lines[:3]] == ["common", "client 0", "client 1"]
    common = re.search(r"from (text\d)", lines[0])
    assert common is not None
    gone = [line for line in lines[3:] if common[1] in line]
    assert gone == [f"no training text is left of 1 source: {common[1]}"]


def test_long_documents_of_a_stream_give_their_ends(prepare, tmp_path):
    """Every document is its stretches put together, all of one client but the common end."""
    draw = random.Random(10)
    texts = [f"<{i}> " + " ".join(sentence(draw) for _ in range(300)) for i in range(24)]
    prepare(write_lines(tmp_path / "a.jsonl", texts), shuffle_documents=10)
    shares = held_out_shares(tmp_path / "out")
    assert shares == pytest.approx(dict.fromkeys(shares, 0.05), rel=0.2)
    documents = {n: part["documents"] for n, part in parts_of(tmp_path / "out").items()}
    for client in ("client_0", "client_1"):
        assert documents[f"{client}/train"] == documents[f"{client}/validation"]
    assert documents["validation"] == 24


def test_a_tokenizer_trained_here_never_sees_held_out_text(prepare, tmp_path, monkeypatch):
    from photon.data.prepare import text as module

    seen: list[str] = []
    train = module.train_tokenizer
    monkeypatch.setattr(
        module, "train_tokenizer", lambda texts, size: train(seen.extend(texts) or seen, size)
    )
    draw = random.Random(6)
    texts = [f"unique{i} {sentence(draw)}" for i in range(120)]
    manifest = prepare(
        write_lines(tmp_path / "a.jsonl", texts),
        tokenizer=None,
        vocab_size=300,
        validation_fraction=0.2,
    )
    assert manifest["settings"]["vocab_size"] == 300
    trained = {d for c in range(2) for d in read_digests(tmp_path / f"out/client_{c}/train")}
    assert {text_digest(text) for text in seen} == trained
    assert len(trained) < 120
