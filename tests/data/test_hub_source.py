"""Datasets of the hub: documents with addresses, and what is missing or out of reach."""

from __future__ import annotations

import pytest
from record_files import RECORDS, TEXT, write_jsonl

from photon.data.prepare.hub import HubSource, has_split
from photon.data.prepare.readers import Columns
from photon.errors import ConfigError, DataError


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
