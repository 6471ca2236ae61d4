"""The microbatch that fits, and what is recorded of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import photon
from photon.config import load_config
from photon.config.resolve import resolve
from photon.errors import ConfigError, DeviceError
from photon.model.flops import model_cost, training_memory
from photon.runtime import fit
from photon.runtime.fit import rows_that_fit, with_microbatch

CPU = torch.device("cpu")


def resolved(*overrides: str):
    config = load_config(["photon.workers=0", *overrides])
    return resolve(config, cores=1, accelerator=False, run_uuid="r")


@pytest.mark.parametrize("fitting", [1, 3, 8, 32])
def test_halving_stops_at_the_first_estimate_that_fits(fitting):
    llm = resolved("llm_config=mpt-125m").llm_config
    need = training_memory(llm, fitting).total
    rows = rows_that_fit(llm, 32, int(need / fit.HEADROOM) + 1)
    assert rows == max(r for r in (1, 2, 4, 8, 16, 32) if r <= fitting)


def test_one_row_is_tried_even_if_the_estimate_says_no():
    llm = resolved("llm_config=mpt-125m").llm_config
    fixed = training_memory(llm, 0).total
    assert rows_that_fit(llm, 32, fixed + 1) == 1
    with pytest.raises(DeviceError, match=r"mpt-125m: weights, gradients and moments take 2\.0 GB"):
        rows_that_fit(llm, 32, fixed - 1)


def test_checkpointing_and_a_small_loss_budget_need_less():
    plain = resolved("llm_config=mpt-1b", "llm_config.fsdp_config.activation_checkpointing=false")
    lean = resolved("llm_config=mpt-1b", "llm_config.max_logits_bytes=200000000")
    big, small = (training_memory(c.llm_config, 4) for c in (plain, lean))
    assert small.activations < big.activations / 5
    assert small.logits < big.logits / 4
    assert (small.weights, small.moments) == (big.weights, big.moments)


def test_a_given_microbatch_stays():
    config = resolved("llm_config.device_train_microbatch_size=3")
    assert with_microbatch(config, CPU) == config


def test_processes_share_the_batch():
    config = resolved("llm_config.global_train_batch_size=6")
    assert with_microbatch(config, CPU, 2).llm_config.device_train_microbatch_size == 3
    with pytest.raises(ConfigError, match="=6 must be a multiple of the 4 processes"):
        with_microbatch(config, CPU, 4)


def test_workers_share_the_memory(monkeypatch):
    llm = resolved().llm_config
    needs = int(training_memory(llm, 4).total / fit.HEADROOM) + 1
    monkeypatch.setattr(fit, "free_memory", lambda device: needs)
    assert with_microbatch(resolved(), CPU).llm_config.device_train_microbatch_size == 4
    both = resolved("photon.workers=2")
    assert with_microbatch(both, CPU).llm_config.device_train_microbatch_size < 4


def test_the_run_records_it_and_a_resumed_run_keeps_it(smoke, monkeypatch):
    result = photon.train(smoke("fl.n_rounds=1", "llm_config.global_train_batch_size=4"))
    path = Path(result.folder) / "config.json"
    key = "device_train_microbatch_size"
    assert json.loads(path.read_text())["llm_config"][key] == 4
    monkeypatch.setattr(fit, "free_memory", lambda device: 1)
    photon.resume(Path(result.folder), ["fl.n_rounds=2"])
    assert json.loads(path.read_text())["llm_config"][key] == 4


def test_the_estimate_counts_what_torch_keeps():
    """Saved tensors of a real forward pass, weights left out, against the estimate: within 25 %."""
    for name in ("mpt_causal_lm", "llama"):
        shape = ["llm_config.model.d_model=64", "llm_config.model.ffn_hidden_size=176",
                 "llm_config.model.n_layers=4", "llm_config.max_seq_len=64"]  # fmt: skip
        llm = resolved(f"llm_config.model.name={name}", *shape).llm_config
        kept = saved_bytes(llm)
        estimate = training_memory(llm, 4).activations
        assert kept == pytest.approx(estimate, rel=0.25), name


def saved_bytes(llm) -> int:
    from photon.model.build import build_model

    model = build_model(llm, 0)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.zeros(4, llm.max_seq_len, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model._blocks(tokens, None, None)
    assert hidden.requires_grad
    return sum(kept.values())


def test_costs_by_hand():
    llm = resolved("llm_config.model.name=mpt_causal_lm").llm_config
    d, layers, vocab, length = 96, 3, 2048, 128
    cost = model_cost(llm)
    assert cost.embeddings == vocab * d + length * d
    assert cost.hidden_matrices == layers * 12 * d * d
    biases_and_norms = layers * ((3 + 1 + 4 + 1) * d + 4 * d) + 2 * d
    assert cost.parameters == cost.embeddings + cost.hidden_matrices + biases_and_norms
    expected = 6 * (cost.hidden_matrices + vocab * d) + 12 * layers * d * length
    assert cost.flops_per_token == expected
