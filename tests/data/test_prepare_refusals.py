"""What `photon prepare` refuses, named: damaged or empty texts, too few, tokenizers and paths."""

from __future__ import annotations

import re

import pytest
from made_texts import write_c4, write_lines

from photon.errors import DataError


@pytest.mark.parametrize("splits", [["train"], ["train_small", "val_small"]])
def test_all_files_that_are_not_what_they_are_called_are_named_at_once(prepare, tmp_path, splits):
    """It stopped at the first, and an hour after that was mended at the next."""
    write_c4(tmp_path / "text", 20)
    good = sorted((tmp_path / "text").iterdir())[0].read_bytes()
    bad = {"b.json.gz": b"version https://git-lfs", "c.jsonl.zst": b"", "d.parquet": b"PAR1PAR2",
           "e.parquet": b"<html>"}  # fmt: skip
    for name, data in {**bad, "empty.json.gz": b"", "good.json.gz": good}.items():
        (tmp_path / "text" / name).write_bytes(data)
    told = re.escape(
        "4 of 27 files cannot be read (b.json.gz: no gzip; c.jsonl.zst: no zstd; d.parquet: "
        "Parquet that is cut off; e.parquet: no Parquet); fetch them again, or remove them"
    )
    if splits != ["train"]:
        told = "damaged or cut off|cannot read it|pyarrow"  # as it comes to one: it may not need it
    with pytest.raises(DataError, match=told):
        prepare(tmp_path / "text", splits=splits)


def test_texts_and_first_records_that_cannot_be_read_are_named_before_any_work(prepare, tmp_path):
    """They were met in the middle of it, one after the other."""
    folder = tmp_path / "text"
    folder.mkdir()
    write_lines(folder / "a.jsonl", [f"a text of some length {i}" for i in range(400)])
    (folder / "b.jsonl").write_text('{"body": "x"}\n' * 9)
    (folder / "c.txt").write_bytes(b"one\ntwo\xff\n")
    told = r"b\.jsonl:1: no column 'text'; there are body; .*; 1 more cannot be read: c\.txt"
    with pytest.raises(DataError, match=told):
        prepare(folder, shuffle_documents=50)
    (folder / "b.jsonl").unlink()
    with pytest.raises(DataError, match=r"c\.txt:2: no UTF-8 at byte 7 of the file; convert"):
        prepare(folder, shuffle_documents=50)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_too_little_text_for_the_clients_is_named(prepare, tmp_path):
    (tmp_path / "a.txt").write_text("much too little")
    with pytest.raises(DataError, match="the text is too small for 2 clients"):
        prepare(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("name", "content"),
    [("empty.txt", ""), ("empty.jsonl", '{"text": ""}\n{"text": null}\n' * 40)],
)
def test_empty_texts_are_named(prepare, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name}: every text is empty; add text"):
        prepare(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}: the text to train on is empty; add text"):
        prepare(tmp_path / name, tokenizer=None, vocab_size=260)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_fewer_rows_than_clients(prepare, tmp_path, monkeypatch):
    source = write_lines(tmp_path / "a.jsonl", [f"short {i}" for i in range(60)])
    with pytest.raises(DataError, match=r"client_0/\w+: \d+ tokens do not fill one row of 16 \+ 1"):
        prepare(source, clients=8, shuffle_documents=1000)
    with pytest.raises(DataError, match=r"12800 rows for validation are too few for 20000 clients"):
        prepare(source, "x", clients=20_000, splits=["train", "val_xxsmall"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]


@pytest.mark.parametrize("name", ["none/tokenizer.json", "none.json", "./none"])
def test_a_missing_tokenizer_is_named(prepare, c4, tmp_path, name):
    with pytest.raises(DataError, match=r"none.*: no such tokenizer; name a tokenizer.json"):
        prepare(c4, tokenizer=str(tmp_path / name))


def test_the_home_of_nobody_is_named(prepare, c4):
    for source, keys in (("~nosuch/t", {}), (c4, {"tokenizer": "~nosuch/t.json"})):
        with pytest.raises(DataError, match=r"^~nosuch/t.*: ~nosuch is no home folder here"):
            prepare(source, **keys)


def test_a_hub_tokenizer_that_is_not_given_is_one_line(prepare, c4):
    with pytest.raises(DataError, match=r"tokenizer 'some/name': no such file .*\(.+\); name a"):
        prepare(c4, tokenizer="some/name")  # the tests are offline


@pytest.mark.parametrize(
    "source", ["nosuch/", "nosuch.jsonl", "nosuch.parquet", "./nosuch", "a/b/c"]
)
def test_a_path_that_is_not_there_is_no_name_on_the_hub(source):
    from photon.data.prepare.text import is_local

    assert is_local(source)
    assert not is_local("allenai/c4")
