"""The benchmark compares like with like: its arms compute the same losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from photon.model.build import build_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(name="arms")
def _arms(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import training_arms

    return training_arms


@pytest.fixture(name="size")
def _size(arms):
    return arms.Size("tiny", 2, 16, 2, 24, vocab=50, length=12, rows=2, steps=2)


@pytest.mark.parametrize("family", ["llama", "mpt"])
def test_the_minimal_model_is_ours(arms, size, family):
    ours = build_model(arms.llm_of(family, size), 3)
    minimal = arms.minimal_of(family, size)
    minimal.load_state_dict(ours.state_dict())
    tokens = torch.from_numpy(arms.rows_of(size).tokens[:2, :-1])
    torch.testing.assert_close(minimal(tokens), ours(tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "mpt"])
def test_the_peer_from_hugging_face_has_as_many_parameters_and_targets(arms, size, family):
    ours = build_model(arms.llm_of(family, size), 3)
    peer = arms.hugging_face_model(family, size)
    assert sum(p.numel() for p in peer.parameters()) == sum(p.numel() for p in ours.parameters())
    rows = torch.from_numpy(arms.rows_of(size).tokens[:2])
    inputs, targets = rows[:, :-1], rows[:, 1:].contiguous()
    output = peer(input_ids=inputs, labels=targets, shift_labels=targets)
    expected = F.cross_entropy(output.logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(output.loss, expected)


def test_presets_run_on_a_cpu_too(arms):
    import train_step

    tiny = ["max_seq_len=16", "model.d_model=16", "model.n_heads=2", "model.n_layers=1"]
    overrides = [f"llm_config.{text}" for text in [*tiny, "model.vocab_size=64"]]
    options = ["cuda", "--device=cpu", "--models=mpt-125m,llama-1b", "--microbatches=1,2"]
    result = CliRunner().invoke(
        train_step.main, [*options, *overrides, "llm_config.model.attn_config.kv_n_heads=null"]
    )
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.output.splitlines()]
    assert [(x["model"], x["microbatch"]) for x in lines] == [
        ("mpt-125m", 1), ("mpt-125m", 2), ("llama-1b", 1), ("llama-1b", 2),
    ]  # fmt: skip
    assert all(x["tokens_per_second"] > 0 and x["utilisation"] is None for x in lines)
