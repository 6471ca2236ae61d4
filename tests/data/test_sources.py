"""Which local files are the text: found, left out with a reason, copied, changed or gone."""

from __future__ import annotations

import gzip
import json
import os
import time

import pytest
from record_files import LINES, RECORDS, list_files, read, write_gzip, write_jsonl

from photon.data.prepare.listing import (
    LeftOut,
    SourceFile,
    _without_about,
    by_reason,
    find_files,
    phrases,
    require_sound,
)
from photon.data.prepare.readers import Columns
from photon.data.prepare.sources import LocalSource, by_split, changed_file, without_copies
from photon.errors import DataError


def test_text_files_are_documents_and_folders_sources(tmp_path):
    (tmp_path / "poe").mkdir()
    (tmp_path / "poe/raven.txt").write_text("Nevermore")
    (tmp_path / "austen.v2.md").write_text("Emma")
    (tmp_path / ".hidden.txt").write_text("x")
    (tmp_path / "image.png").write_bytes(b"x")
    found = [d for _, d in read(tmp_path)]
    assert [(d.name, d.source, d.text) for d in found] == [
        ("austen.v2.md", "austen", "Emma"),
        ("poe/raven.txt", "poe", "Nevermore"),
    ]


def test_every_file_is_read_or_left_out_with_a_reason(tmp_path):
    """The names on both lists together are those of an independent walk."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in (root / "sub", root / ".git", elsewhere / "deep"):
        folder.mkdir(parents=True)
    for name in ("A.TXT", "b.Md", "sub/c.txt", "README.md", "sub/image.png", ".git/x.txt", ".h.md"):
        (root / name).write_text(name)
    (elsewhere / "deep/d.txt").write_text("d")
    write_jsonl(root / "e.JSONL")
    write_gzip(root / "f.json.GZ")
    with gzip.open(root / "g.txt.gz", "wb") as file:
        file.write(b"packed")
    (root / "link").symlink_to(elsewhere)
    (root / "a-link").symlink_to(root / "sub")  # read where it really is
    (elsewhere / "deep/circle").symlink_to(root)
    (root / "again.txt").symlink_to(root / "A.TXT")
    (root / "broken.txt").symlink_to(tmp_path / "none")
    files, left_out = find_files(root)
    assert [file.name for file in files] == [
        "A.TXT", "b.Md", "e.JSONL", "f.json.GZ", "g.txt.gz", "link/deep/d.txt", "sub/c.txt"
    ]  # fmt: skip
    assert {one.name: one.reason for one in left_out} == {
        "README.md": "about the records beside it",
        "sub/image.png": "of another kind",
        ".git/x.txt": "hidden",
        ".h.md": "hidden",
        "a-link": "linked to what is read already",
        "link/deep/circle": "linked to what is read already",
        "again.txt": "linked to what is read already",
        "broken.txt": "linked to nothing",
    }
    texts = [document.text for _, document in read(root)]
    assert texts == ["A.TXT", "b.Md", *[r["text"] for r in RECORDS] * 2, "packed", "d", "sub/c.txt"]


def test_prepared_data_is_no_text(tmp_path):
    """Who prepares the folder that they stand in can do so again."""
    (tmp_path / "a.txt").write_text("text")
    for name, manifest in {
        "mine": {"format": 1, "digest": "d"}, "part": {"format": 1, "shards": []},
        "app": {"format": 1, "name": "none of ours"}, "list": [1],
    }.items():  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
        (tmp_path / name / "b.txt").write_text("text")
    files, left_out = find_files(tmp_path)
    assert [file.name for file in files] == [
        "a.txt", "app/b.txt", "app/manifest.json", "list/b.txt", "list/manifest.json"
    ]  # fmt: skip
    assert left_out == [LeftOut(name, "prepared already") for name in ("mine", "part")]
    with pytest.raises(DataError, match=r"mine: no text here \(1 prepared already"):
        find_files(tmp_path / "mine")


def test_names_that_are_no_text_stay_different(tmp_path):
    names = [
        b"a\xff",
        b"a\xfe",
        rb"a\xff",
        rb"a\\xff",
        rb"a\x5cxff",
        b"a\\\xff",
        rb"C\n",
        "é".encode(),
    ]
    for name in names:
        path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name + b".txt")
        with open(path, "w") as file:
            file.write("text")
    found = {file.name.removesuffix(".txt") for file in find_files(tmp_path)[0]}
    assert len(found) == len(names)
    assert {r"a\xff", r"a\xfe", r"C\n", "é"} <= found


def test_many_readmes_are_told_apart_at_once(tmp_path):
    names = [f"r{i}/{name}" for i in range(3000) for name in ("README.md", "a.jsonl")]
    files = [SourceFile(tmp_path / n, n, n.split("/")[0], 1, 1) for n in names]
    begun = time.process_time()
    kept, about = _without_about(files)
    assert time.process_time() - begun < 1
    assert [file.name for file in kept] == names[1::2]
    assert [one.name for one in about] == names[::2]


def test_what_is_left_out_is_told_by_reason(tmp_path):
    left_out = [LeftOut(f"{i}.png", "of another kind") for i in range(1005)]
    assert phrases(by_reason([LeftOut(".a", "hidden"), *left_out])) == [
        "1 hidden (.a)",
        "1,005 of another kind (0.png, 1.png, 10.png and 1002 more)",
    ]


def test_files_named_validation_are_for_validation(tmp_path):
    names = ["c4-train.00000.json.gz", "c4-train.00001.json.gz", "c4-validation.00000.json.gz"]
    for name in names:
        write_gzip(tmp_path / name)
    train, validation = by_split(list_files(tmp_path))
    assert [f.name for f in train] == names[:2]
    assert [f.name for f in validation] == names[2:]


def test_a_file_that_cannot_be_opened_is_named_with_the_others(tmp_path):
    for name in ("a.jsonl", "b.jsonl", "c.jsonl.gz"):
        (tmp_path / name).write_bytes(LINES)
    files = list_files(tmp_path)
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(DataError, match=r"2 of 3 .*b.jsonl: No such file.*; c.jsonl.gz: no gzip"):
        require_sound(files)


def test_nothing_to_read_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        list_files(tmp_path / "none")
    with pytest.raises(DataError, match=r"no text here; it reads \.jsonl"):
        list_files(tmp_path)


def test_changes_of_the_files_are_named(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    source = LocalSource(list_files(tmp_path), Columns())
    recorded = source.describe([0, 1])
    assert changed_file(list_files(tmp_path), recorded) is None
    (tmp_path / "a.txt").write_text("a.txt")  # another time, the same content
    assert changed_file(list_files(tmp_path), recorded) is None
    (tmp_path / "a.txt").write_text("A.txt")
    assert changed_file(list_files(tmp_path), recorded) == "a.txt has other content"
    with pytest.raises(DataError, match=r"a\.txt: was changed while it was read"):
        source.require_unchanged()
    (tmp_path / "a.txt").write_text("longer text")
    assert changed_file(list_files(tmp_path), recorded) == "a.txt has 11 bytes, had 5"
    (tmp_path / "a.txt").unlink()
    assert changed_file(list_files(tmp_path), recorded) == "a.txt is gone"
    (tmp_path / "c.txt").write_text("c")
    assert changed_file(list_files(tmp_path)[1:], recorded) == "c.txt is new"


def test_a_file_that_was_not_read_may_have_another_time(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    recorded = LocalSource(list_files(tmp_path), Columns()).describe([0])
    os.utime(tmp_path / "a.txt")
    os.utime(tmp_path / "b.txt")
    assert changed_file(list_files(tmp_path), recorded) is None


def test_copies_are_told_from_different_files(tmp_path):
    for name, text in (("a.txt", "one"), ("b.txt", "two"), ("c.txt", "one")):
        (tmp_path / name).write_text(text)
    different, copies = without_copies(list_files(tmp_path))
    assert [f.name for f in different] == ["a.txt", "b.txt"]
    assert [f.name for f in copies] == ["c.txt"]
