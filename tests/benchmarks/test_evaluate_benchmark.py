"""The benchmark of scoring measures as docs/results.md says."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from click.testing import CliRunner

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_one_thread_computes(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    adapter = SimpleNamespace(PhotonLM=object)  # the real one needs the extra `eval`
    monkeypatch.setitem(sys.modules, "photon.scoring.lm_adapter", adapter)
    evaluate = importlib.import_module("evaluate")
    del sys.modules["evaluate"]  # it has the stand-in
    ours = SimpleNamespace(model=SimpleNamespace(vocab_size=8))
    given = {"make_run": None, "our_model": ours, "their_models": {}, "make_tasks": None,
             "requests_of": []}  # fmt: skip
    for name, value in given.items():
        monkeypatch.setattr(evaluate, name, lambda *_, value=value: value)
    monkeypatch.setattr(evaluate, "compare", lambda *_: {"own": torch.get_num_threads()})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        said = CliRunner().invoke(evaluate.main, [str(tmp_path), "--task", "piqa"])
        line = json.loads(said.output)
    finally:
        torch.set_num_threads(before)
    assert (line["own"], line["threads"]) == (1, 1)
