"""The benchmark of scoring measures as docs/results.md says."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import torch
from click.testing import CliRunner

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_one_thread_computes(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    evaluate = importlib.import_module("evaluate")
    ours = SimpleNamespace(model=SimpleNamespace(vocab_size=8))
    given = {"make_run": None, "our_model": ours, "their_models": {}, "make_tasks": None,
             "requests_of": []}  # fmt: skip
    for name, value in given.items():
        monkeypatch.setattr(evaluate, name, lambda *_, value=value: value)
    monkeypatch.setattr(evaluate, "require_package", lambda *_: None)
    monkeypatch.setattr(evaluate, "compare", lambda *_: {"own": torch.get_num_threads()})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        said = CliRunner().invoke(evaluate.main, [str(tmp_path), "--task", "piqa"])
        line = json.loads(said.output)
    finally:
        torch.set_num_threads(before)
    assert (line["own"], line["threads"]) == (1, 1)


def test_without_lm_eval_a_line_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr("photon.errors.find_spec", lambda name: None)
    done = CliRunner().invoke(importlib.import_module("evaluate").main, [str(tmp_path)])
    assert done.exit_code == 1
    assert done.output.startswith("Error: evaluate.py needs lm-eval: pip install ")
