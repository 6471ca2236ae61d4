"""`photon model`: costs for people and for scripts."""

from __future__ import annotations

import json

import pytest

from photon.cli.main import run


def test_json_has_the_published_count(capsys):
    assert run(["model", "llm_config=mpt-125M", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"] == {"total": 125_311_488, "embeddings": 2048 * 768 + 50368 * 768}
    bits = 4.125 + 2 * 8.125  # two moments travel too; each block of 64 has a byte for its scale
    assert facts["update_bytes"]["up"] == pytest.approx(bits / 8 * 125_311_488, rel=1e-4)
    memory = facts["training_bytes"]["1"]
    assert memory["weights"] == memory["gradients"] == 4 * 125_311_488
    assert memory["total"] == sum(v for k, v in memory.items() if k != "total")


@pytest.mark.parametrize(
    ("keys", "up", "down"),
    [
        (["fl.aggregate_momenta=false"], 4.125 / 8, 4.125 / 8),
        (["fl.aggregate_momenta=false", "fl.compression=bf16"], 2, 4),
        (["fl.compression=bf16"], 3 * 2, 4 + 2 * 2),
    ],
)
def test_an_update_is_so_many_bytes_a_parameter(keys, up, down, capsys):
    assert run(["model", "llm_config=mpt-125m", *keys, "--json"]) == 0
    found, size = json.loads(capsys.readouterr().out)["update_bytes"], 125_311_488
    assert found["up"] == pytest.approx(up * size, rel=1e-4 if up < 1 else 0)
    assert found["down"] == pytest.approx(down * size, rel=1e-4 if down < 1 else 0)
    assert found["first_down"] == 4 * size


def test_people_get_lines(capsys):
    assert run(["model", "llm_config=llama-1b"]) == 0
    out = capsys.readouterr().out
    assert "1,046,956,032, of these 103,153,664 in embeddings" in out
    assert "GFLOPs per token" in out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["llm_config=mpt-2b"], "llm_config=mpt-2b; did you mean 'mpt-7b'? there are"),
        (["llm_config=mpt-125m", "llm_config.model.n_heads=7"], "must be a multiple of n_heads=7"),
        (
            ["llm_config=mpt-125m", "llm_config.model.max_seq_len=1024"],
            "max_seq_len=2048 is longer than the 1024 positions",
        ),
        (["llm_config.model.attn_config.kv_n_heads=3"], "kv_n_heads=3 must divide n_heads=4"),
        (["llm_config.model.attn_config.alibi=true"], "alibi belongs to name=mpt_causal_lm"),
        (["llm_config.model.name=hf_causal_lm"], "needs pretrained_model_name_or_path"),
        (
            ["llm_config.model.name=hf_causal_lm",
             "llm_config.model.pretrained_model_name_or_path=/no/such/folder"],
            "pretrained_model_name_or_path=/no/such/folder: cannot read a config.json",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(overrides, message, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run(["model", *overrides]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
