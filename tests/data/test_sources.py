"""Local files and hub datasets: every document with its address, every fault with its place."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import time
import tracemalloc

import pytest
import zstandard

from photon.data.prepare import json_array
from photon.data.prepare.hub import HubSource, has_split
from photon.data.prepare.listing import (
    LeftOut,
    SourceFile,
    _without_about,
    by_reason,
    find_files,
    phrases,
    require_sound,
)
from photon.data.prepare.readers import Columns, read_file
from photon.data.prepare.sources import LocalSource, by_split, changed_file, without_copies
from photon.errors import ConfigError, DataError

TEXT = Columns()


def list_files(root):
    return find_files(root)[0]


RECORDS = [{"text": f"text {i} ünï", "language": "en" if i % 2 else "de"} for i in range(7)]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()


def write_jsonl(path):
    path.write_bytes(LINES)


def write_gzip(path):
    with gzip.open(path, "wb") as file:
        file.write(LINES)


def write_zstd(path):
    pack = zstandard.ZstdCompressor().compress
    path.write_bytes(pack(LINES[:100]) + pack(LINES[100:]))


def write_parquet(path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path, row_group_size=3)


def write_long_zstd(path):
    """As `zstd --long=31` does with a file whose size it does not know."""
    settings = zstandard.ZstdCompressionParameters(window_log=31, compression_level=1)
    pack = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    path.write_bytes(pack.compress(LINES) + pack.flush())


FORMATS = {
    "a.jsonl": write_jsonl,
    "a.json": write_jsonl,
    "a.json.gz": write_gzip,
    "a.jsonl.zst": write_zstd,
    "a.ndjson.zst": write_long_zstd,
    "a.parquet": write_parquet,
}


def read(root, columns=TEXT, start=0):
    source = LocalSource(list_files(root), columns)
    return [
        (place, document)
        for file in range(source.num_files())
        for place, document in source.documents(file, start)
    ]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("start", [0, 3, 4, 7])
def test_every_format_gives_the_same_documents_from_any_place(tmp_path, name, start):
    FORMATS[name](tmp_path / name)
    found = read(tmp_path, Columns("text", "language"), start)
    assert [d.text for _, d in found] == [r["text"] for r in RECORDS[start:]]
    assert [d.source for _, d in found] == [r["language"] for r in RECORDS[start:]]
    assert [place for place, _ in found] == list(range(start + 1, 8))


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


def test_json_is_read_as_datasets_reads_it(tmp_path):
    """A byte-order mark, one array over several lines, null for no text."""
    mark = b"\xef\xbb\xbf"
    values = [*RECORDS, {"text": None}, {"text": float("nan")}]
    array = json.dumps(values, indent=1).encode()
    lines = "".join(json.dumps(value) + "\n" for value in values).encode()
    for name, data in {
        "a.json": array, "b.json": mark + b"\n \n" + array, "c.json": lines,
        "d.jsonl": mark + lines, "e.jsonl.gz": gzip.compress(mark + lines),
    }.items():  # fmt: skip
        for start in (0, 3):
            (tmp_path / "s").mkdir(exist_ok=True)
            path = tmp_path / "s" / name
            path.write_bytes(data)
            found = read(path, start=start)
            assert [d.text for _, d in found] == [r["text"] for r in RECORDS[start:]] + ["", ""]
            assert [place for place, _ in found] == list(range(start + 1, 10))
    (tmp_path / "f.txt").write_bytes(mark + b"text")
    assert read(tmp_path / "f.txt")[0][1].text == "text"


ARRAY = json.dumps([{"text": 'a\u00e9\U0001f600 \\ "]', "n": [1, -2.5e3, None]}, 12, 345, [], ""])


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    "text",
    [ARRAY, json.dumps(json.loads(ARRAY), indent=1, ensure_ascii=False), "[]", " [ ] ", "[1]\n",
     "[NaN, Infinity, true]", "[1,]", "[1 2]", "[1", "[", "[,", "[1]]", "[1] [2]", '[1, "ab',
     '[1,\n tru]', '[{"a":\n 1 "b"}, 2, 3, 4, 5, 6, 7, 8]', '["\\u12x4"]'],
)  # fmt: skip
def test_an_array_is_read_piece_by_piece_as_json_reads_it(monkeypatch, chunk, text):
    """However it is cut, also within a character, with the place of a fault in the whole."""
    monkeypatch.setattr(json_array, "_CHUNK", chunk)
    values = json_array.array_values(text.encode()[:1], io.BytesIO(text.encode()[1:]))
    if text.encode()[:1] != b"[":
        values = json_array.array_values(text.encode(), io.BytesIO())
    try:
        expected = json.loads(text)
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(f"line {error.lineno} (char {error.pos})")):
            list(values)
    else:
        assert repr(list(values)) == repr(expected)


def test_no_utf8_within_an_array_is_told_with_its_place(monkeypatch):
    monkeypatch.setattr(json_array, "_CHUNK", 2)
    values = json_array.array_values(b'["', io.BytesIO(b'abcdefgh", "\xff"]'))
    with pytest.raises(UnicodeDecodeError) as told:
        list(values)
    assert told.value.start == 14


def test_of_a_long_array_little_is_held(tmp_path):
    """In one line of 40 MB, as `json.dump` writes it; it was held as bytes, text and objects."""
    record = json.dumps({"text": "x" * 1000})
    path = tmp_path / "a.json"
    path.write_text("[" + ", ".join([record] * 40_000) + "]")
    shares: list[float] = []
    documents = read_file(path, "a.json", "s", Columns(), 39_990, shares.append)
    tracemalloc.start()
    try:
        assert [place for place, _ in documents] == list(range(39_991, 40_001))
        assert tracemalloc.get_traced_memory()[1] < 12e6
    finally:
        tracemalloc.stop()
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1


def test_half_a_surrogate_pair_is_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a \\ud83d b \\ud83d\\ude00"}\n')
    assert read(tmp_path)[0][1].text == "a \ufffd b \U0001f600"


def test_only_the_wanted_columns_of_a_parquet_file_are_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {
        "text": ["one", None],
        "far": pyarrow.array([2**60, 1], pyarrow.timestamp("us")),
        "zone": pyarrow.array([1, 2], pyarrow.timestamp("us", tz="Mars/Olympus")),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    assert [d.text for _, d in read(tmp_path)] == ["one", ""]


def test_files_named_validation_are_for_validation(tmp_path):
    names = ["c4-train.00000.json.gz", "c4-train.00001.json.gz", "c4-validation.00000.json.gz"]
    for name in names:
        write_gzip(tmp_path / name)
    train, validation = by_split(list_files(tmp_path))
    assert [f.name for f in train] == names[:2]
    assert [f.name for f in validation] == names[2:]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl:2: broken JSON"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', r"a\.jsonl:2: is no JSON object"),
        (
            "a.jsonl",
            b'{"text": 3}\n',
            r"a\.jsonl:1: column 'text' holds int, not text; put it in "
            r"quotes, .*text_column",
        ),
        (
            "a.jsonl",
            b'{"body": "x", "id": 1}\n',
            r"a\.jsonl:1: no column 'text'; there are body, id; name another one with "
            r"dataset\.prepare\.text_column, or leave out what lacks it$",
        ),
        ("a.jsonl", b"{}\n", r"a\.jsonl:1: no column 'text'; there are none; name"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', r"a\.jsonl: no UTF-8 at byte 24"),
        ("a.json", b"[1]", r'a\.json:1: is no JSON object; make it one, as {"text": \.\.\.}, or'),
        (
            "a.json",
            b'{\n "data": [\n  {"text": "x"}\n ]\n}\n',
            r"a\.json: one object over several lines; give an array, or an object a line",
        ),
        ("a.jsonl", b'\n{"text":\n"x"}\n', r"a\.jsonl: one object over several lines"),
        ("a.jsonl", b'{"text":\n{"text": "x"}\n', r"a\.jsonl:1: broken JSON .*; mend the line or"),
        ("a.jsonl", b'{"text": \n', r"a\.jsonl:1: broken JSON"),
        ("a.json", b'[{"text": "x"},', r"a\.json: broken JSON .*; mend the file or remove it"),
        ("a.json", b'{"x": ' + b"[" * 100_000, r"a\.json:1: JSON that is nested too deep"),
        ("a.txt", b"abc\xfe", r"a\.txt: no UTF-8 at byte 3"),
        ("a.json.gz", b"no gzip", r"a\.json\.gz: damaged or cut off"),
        ("a.json.gz", gzip.compress(LINES * 50)[:-20], r"a\.json\.gz: damaged or cut off"),
        ("a.txt.zst", b"", r"a\.txt\.zst: damaged or cut off"),
        ("a.jsonl.zst", b"no zstd, long enough", r"a\.jsonl\.zst: damaged or cut off"),
        (
            "a.jsonl.zst",
            zstandard.ZstdCompressor().compress(LINES * 50)[:-20],
            r"a\.jsonl\.zst: damaged or cut off",
        ),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_a_broken_parquet_file_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"a\.parquet: cannot read it"):
        read(tmp_path)
    write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column 'body'; there are language, text"):
        read(tmp_path, Columns("body"))
    with pytest.raises(DataError, match=r"no column 'site'; .* with dataset\.prepare\.source_col"):
        read(tmp_path, Columns(source="site"))


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


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    import sys

    (tmp_path / "a.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"needs the package pyarrow: pip install .*\[data\]"):
        read(tmp_path)


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


def hub(open_records, columns=TEXT):
    source = HubSource("c4", "en", "train", columns)
    source._stream = open_records
    return source


def test_hub_documents_have_addresses():
    source = hub(lambda start: RECORDS[start:])
    found = list(source.documents(0, 5))
    assert [(place, d.name, d.source, d.text) for place, d in found] == [
        (6, "allenai/c4/en/train:6", "en", RECORDS[5]["text"]),
        (7, "allenai/c4/en/train:7", "en", RECORDS[6]["text"]),
    ]
    by_column = hub(lambda start: RECORDS, Columns("text", "language"))
    assert next(by_column.documents(0, 0))[1].source == "de"


def test_a_hub_that_is_out_of_reach_is_one_line():
    def fail(start):
        raise ConnectionError("Couldn't reach it\nand more")

    with pytest.raises(DataError) as caught:
        list(hub(fail).documents(0, 0))
    assert str(caught.value).startswith(
        "allenai/c4/en/train: no such folder here, and the Hugging Face hub does not give"
    )
    assert "name a local folder with --source" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="does not give"):
        has_split(hub(fail))


def test_a_missing_split_is_told_from_a_fault():
    def no_split(start):
        raise ValueError("Bad split: validation. Available splits: ['train']")

    assert not has_split(hub(no_split))
    assert has_split(hub(lambda start: RECORDS))
    assert not has_split(hub(lambda start: []))


def test_a_folder_that_is_not_there_is_named_before_the_library_is(monkeypatch):
    """Who mistypes a folder is not told to install something and no more."""
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"^texst: no such folder here; .*\[data\]"):
        list(HubSource("texst", None, "train", Columns()).documents(0, 0))


def test_the_datasets_library_streams(tmp_path, monkeypatch):
    """The library itself, given local files: streaming, skipping and naming the columns."""
    datasets = pytest.importorskip("datasets")
    write_jsonl(tmp_path / "a.jsonl")
    load = datasets.load_dataset

    def local(path, name, *, split, streaming):
        assert (path, name, split, streaming) == ("allenai/c4", "en", "train", True)
        return load("json", data_files=str(tmp_path / "a.jsonl"), split=split, streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", local)
    source = HubSource("c4", "en", "train", Columns())
    assert [d.text for _, d in source.documents(0, 4)] == [r["text"] for r in RECORDS[4:]]
    with pytest.raises(DataError, match="no column 'body'; there are language, text"):
        list(HubSource("c4", "en", "train", Columns("body")).documents(0, 0))
