"""A line of a benchmark's log says what made it."""

from __future__ import annotations

import importlib
import platform
import subprocess
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def records(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("records")


def test_a_line_has_its_provenance(records, tmp_path):
    log = tmp_path / "results" / "some.jsonl"
    assert records.lines(log) == []
    records.append(log, {"arm": "a", "loss": 1.5})
    records.append(log, {"arm": "b"})
    first, second = records.lines(log)
    made = first.pop("made")
    assert first == {"arm": "a", "loss": 1.5}
    assert second == {"arm": "b", "made": made}
    assert (made["python"], made["torch"]) == (platform.python_version(), torch.__version__)
    assert "cores" in made["machine"]


def test_a_torn_line_is_named(records, tmp_path):
    """Of a program that was killed while it wrote."""
    log = tmp_path / "some.jsonl"
    records.append(log, {"arm": "a"})
    log.write_text(log.read_text() + '{"arm": "b", "lo')
    with pytest.raises(SystemExit, match=r"some\.jsonl:2: no record of a benchmark .*; remove the"):
        records.lines(log)


def test_a_commit_is_that_of_the_checkout(records, monkeypatch, tmp_path):
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(tmp_path)]
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("a = 1\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    monkeypatch.setattr(records, "__file__", str(tmp_path / "benchmarks" / "records.py"))
    (tmp_path / "benchmarks").mkdir()
    assert records._commit() == head.stdout[:10]
    (tmp_path / "src" / "a.py").write_text("a = 2\n")
    assert records._commit() == head.stdout[:10] + "+", "measured on something else"


TYPED = {"commit": "", "note": "typed from a text"}


def test_the_newest_line_of_a_key_stands(records):
    lines = [
        {"arm": "a", "loss": 1}, {"arm": "b", "loss": 2, "made": TYPED},
        {"arm": "b", "loss": 3, "made": TYPED}, {"arm": "a", "loss": 4},
        {"arm": "c", "loss": 5, "made": TYPED}, {"arm": "c", "loss": 6, "made": {"commit": "x"}},
        {"arm": "d", "loss": 7}, {"arm": "d", "loss": 8, "made": TYPED},
    ]  # fmt: skip
    assert [one["loss"] for one in records.current(lines, "arm")] == [4, 2, 3, 6, 8]
