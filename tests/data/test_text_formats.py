"""Every format of text: the same documents from any place, every fault with its place."""

from __future__ import annotations

import gzip
import io
import json
import re
import tracemalloc

import pytest
import zstandard
from record_files import LINES, RECORDS, read, write_gzip, write_jsonl

from photon.data.prepare import json_array
from photon.data.prepare.readers import Columns, read_file
from photon.errors import ConfigError, DataError


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


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("start", [0, 3, 4, 7])
def test_every_format_gives_the_same_documents_from_any_place(tmp_path, name, start):
    FORMATS[name](tmp_path / name)
    found = read(tmp_path, Columns("text", "language"), start)
    assert [d.text for _, d in found] == [r["text"] for r in RECORDS[start:]]
    assert [d.source for _, d in found] == [r["language"] for r in RECORDS[start:]]
    assert [place for place, _ in found] == list(range(start + 1, 8))


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
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', r"a\.jsonl:2: no UTF-8 at byte 24"),
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
        ("a.txt", b"ab\nc\xfe", r"a\.txt:2: no UTF-8 at byte 4"),
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


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    import sys

    (tmp_path / "a.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"needs the package pyarrow: pip install .*\[data\]"):
        read(tmp_path)
